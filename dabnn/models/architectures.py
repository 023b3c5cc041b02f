"""The architectures of the zoo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from dabnn.conversion.plan import BATCH_NORMS
from dabnn.models.pspnet import PSPNet
from dabnn.models.registry import register_model


@register_model
def pspnet_resnet18_os8(num_classes: int, **arguments: Any) -> nn.Module:
    """PSPNet with ResNet-18 at output stride 8: the small network of the paper."""
    return _pspnet(num_classes, arguments, backbone="resnet18", output_stride=8)


@register_model
def pspnet_resnet101_os8(num_classes: int, **arguments: Any) -> nn.Module:
    """PSPNet with ResNet-101 at output stride 8: the large network of the paper."""
    return _pspnet(num_classes, arguments, backbone="resnet101", output_stride=8)


@register_model
def pspnet_lite0_os16(num_classes: int, **arguments: Any) -> nn.Module:
    """PSPNet with EfficientNet-Lite0 at output stride 16: for a CPU."""
    return _pspnet(num_classes, arguments, backbone="tf_efficientnet_lite0", output_stride=16, channels=128)


@register_model(norm_types=(nn.LayerNorm, *BATCH_NORMS))
def segformer_b0(num_classes: int, **arguments: Any) -> nn.Module:
    """SegFormer-B0, a transformer: its layer norms have branches (the paper's future work)."""
    defaults = {"encoder_name": "mit_b0", "encoder_weights": None}
    return smp.Segformer(classes=num_classes, **{**defaults, **arguments})


def _pspnet(num_classes: int, arguments: Mapping[str, Any], **defaults: Any) -> nn.Module:
    return PSPNet(num_classes=num_classes, **{**defaults, **arguments})
