"""PSPNet (Zhao et al., CVPR 2017) over any timm backbone, dilated as the paper's networks are."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dabnn.conversion.state_dict import load_checked
from dabnn.errors import ConfigError

PREFIXES = ("encoder.model.", "encoder.", "model.")
"""Where the backbone is in models of segmentation-models-pytorch, and in its encoders that are timm's."""


class PyramidPooling(nn.Module):
    """The features beside their averages over grids of several sizes.

    Args:
        channels: Channels of the features; each grid adds ``channels // len(bins)``.
        bins: Side of each grid.
    """

    def __init__(self, channels: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), *conv_norm_act(channels, channels // len(bins), 1))
            for side in bins
        )
        self.out_channels = channels + len(bins) * (channels // len(bins))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, out_channels, H, W)."""
        size = features.shape[-2:]
        pooled = [F.interpolate(stage(features), size, mode="bilinear") for stage in self.stages]
        return torch.cat([features, *pooled], dim=1)


class PSPNet(nn.Module):
    """The segmentation network of the paper (Section 4.1).

    Its pyramid is followed by a 3x3 convolution and its backbone is dilated; in
    segmentation-models-pytorch's PSPNet that convolution is 1x1. Multiplications beside those of Table 5:
    ``dabnn reproduce table5``.

    Args:
        backbone: Name of a timm model that can be dilated.
        num_classes: Number of classes.
        output_stride: Size of the image over size of the features: 8, 16 or 32.
        channels: Width of the 3x3 convolution.
        bins: Sides of the pyramid's grids.
        dropout: Probability of dropping a channel before the classifier.
        auxiliary: In training, return logits of the backbone's last stage but one too. The paper does not.
        enlarge: Factor by which images are enlarged before the backbone, for images much smaller than those
            that it was pretrained on. The logits keep the size of the images.

    Attributes:
        arguments: What it was built with, but for the number of classes.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        num_classes: int = 19,
        *,
        output_stride: int = 8,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        auxiliary: bool = False,
        enlarge: float = 1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.arguments = {
            "backbone": backbone,
            "output_stride": output_stride,
            "channels": channels,
            "bins": list(bins),
            "dropout": dropout,
            "auxiliary": auxiliary,
            "enlarge": enlarge,
        }
        self.enlarge = enlarge
        self.backbone = dilated_backbone(backbone, output_stride)
        before, last = self.backbone.feature_info.channels()
        self.pyramid = PyramidPooling(last, bins)
        self.bottleneck = conv_norm_act(self.pyramid.out_channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.auxiliary = (
            nn.Sequential(
                *conv_norm_act(before, before // 4, 3),
                nn.Dropout2d(dropout),
                nn.Conv2d(before // 4, num_classes, 1),
            )
            if auxiliary
            else None
        )

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Map images (B, 3, H, W) to logits (B, num_classes, H, W).

        With an auxiliary head in training: a dict of them under "out", and of its logits under "aux".
        """
        size = images.shape[-2:]
        if self.enlarge != 1:
            images = F.interpolate(images, scale_factor=self.enlarge, mode="bilinear")
        before, last = self.backbone(images)
        logits = self.classifier(self.dropout(self.bottleneck(self.pyramid(last))))
        logits = F.interpolate(logits, size, mode="bilinear")
        if self.auxiliary is None or not self.training:
            return logits
        return {"out": logits, "aux": F.interpolate(self.auxiliary(before), size, mode="bilinear")}

    def load_backbone(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the weights of an image classifier into the backbone; in a converted one, into every branch.

        Args:
            state_dict: Of the same model of timm, or of a ResNet of torchvision, whose head is left out;
                or of the encoder of segmentation-models-pytorch, or of a whole model there.

        Raises:
            CheckpointError: If names or shapes do not fit; nothing was loaded then.
        """
        prefix = next((p for p in PREFIXES if any(key.startswith(p) for key in state_dict)), "")
        own = {key.removeprefix(prefix): v for key, v in state_dict.items() if key.startswith(prefix)}
        head = head_names(str(self.arguments["backbone"]))
        load_checked(self.backbone, {key: v for key, v in own.items() if key not in head})


def dilated_backbone(name: str, output_stride: int) -> Any:
    """Return a timm model, without weights, that gives the features of its last two stages.

    Raises:
        ConfigError: If timm has no such model, or cannot dilate it.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ConfigError(f"the installed timm has no backbone {name!r}; {hint}")
    try:
        return timm.create_model(name, features_only=True, output_stride=output_stride, out_indices=(-2, -1))
    except Exception as error:  # each kind of model refuses in its own way
        raise ConfigError(
            f"backbone {name!r} cannot be dilated to output stride {output_stride}: PSPNet needs a "
            "convolutional timm model that can, to 8, 16 or 32, such as resnet18 or tf_efficientnet_lite0 "
            f"({error!r})"
        ) from error


def head_names(name: str) -> set[str]:
    """Return the names of the weights that a timm classifier has behind the features of its stages."""
    with torch.device("meta"):  # names only: nothing is initialised
        whole, features = (timm.create_model(name, features_only=only) for only in (False, True))
    return whole.state_dict().keys() - features.state_dict().keys()


def conv_norm_act(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return a convolution without bias that keeps the size, a batch norm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
