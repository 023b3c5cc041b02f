"""Every architecture of timm, SMP and torchvision: how to build it, and what to feed it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from accelerate import init_empty_weights
from torch import Tensor, nn

SMP_FAMILIES = {cls.__name__: cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
SMP_ENCODERS = (
    "resnet18",
    "mobilenet_v2",
    "efficientnet-b0",
    "densenet121",
    "vgg11_bn",
    "mobileone_s0",
    "mit_b0",
    "tu-regnetx_002",
    "tu-mobilenetv3_small_050",
)
# DPT takes plain vision transformers only: of these, the batch norms sit in its decoder, and in the last one
# in a ResNet stem as well.
DPT_ENCODERS = (
    "tu-test_vit",
    "tu-test_vit2",
    "tu-test_vit4",
    "tu-deit_tiny_distilled_patch16_224",
    "tu-vit_small_resnet26d_224",
)
IMAGE_SIZES = (64, 128, 224)


@dataclass(frozen=True)
class Architecture:
    """One entry of the catalogue.

    Attributes:
        library: "timm", "smp" or "torchvision".
        name: The library's name; for SMP "Family/encoder", for a torchvision auxiliary head "name/aux_loss".
    """

    library: str
    name: str

    def build(self, num_classes: int | None = None) -> nn.Module:
        """Build it with random weights; ``num_classes=None`` keeps the library's default."""
        return _BUILDERS[self.library](self.name, num_classes)

    def skeleton(self, num_classes: int | None = None) -> nn.Module:
        """Build it without memory for its weights."""
        try:
            with torch.device("meta"):
                return self.build(num_classes)
        except RuntimeError:  # a constructor that computes with tensors
            with init_empty_weights():
                return self.build(num_classes)


def timm_files() -> dict[str, list[Architecture]]:
    """List all architectures of the installed timm, by module file."""
    return {
        file: [Architecture("timm", name) for name in timm.list_models(module=file)]
        for file in timm.list_modules()
    }


def torchvision_files() -> dict[str, list[Architecture]]:
    """List all architectures of the installed torchvision by module file, segmentation models one by one.

    Segmentation models come also with an auxiliary head.
    """
    files: dict[str, list[Architecture]] = {}
    for name in torchvision.models.list_models():
        builder = torchvision.models.get_model_builder(name)
        file = builder.__module__.removeprefix("torchvision.models.")
        segments = file.startswith("segmentation.")
        has_auxiliary = "aux_loss" in inspect.signature(builder).parameters
        for variant in (name, f"{name}/aux_loss") if has_auxiliary else (name,):
            files.setdefault(variant if segments else file, []).append(Architecture("torchvision", variant))
    return files


def smp_architectures() -> list[Architecture]:
    """List all SMP families with several encoders each."""
    encoders = {family: DPT_ENCODERS if family == "DPT" else SMP_ENCODERS for family in SMP_FAMILIES}
    return [Architecture("smp", f"{family}/{encoder}") for family in encoders for encoder in encoders[family]]


def example_inputs(architecture: Architecture, model: nn.Module) -> tuple[Any, ...]:
    """Return arguments for a forward pass of 2 images, as small as the model takes.

    Detection models are told to leave images of that size as they are.
    """
    kind = type(model).__module__ if architecture.library == "torchvision" else ""
    if ".detection." in kind:
        return _detection_inputs(model)
    if ".optical_flow." in kind:
        return torch.randn(2, 3, 128, 128), torch.randn(2, 3, 128, 128)
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, default, _ = config.get("input_size") or (3, 299, 299)
    frames = (16,) if ".video." in kind else ()
    smaller = () if config.get("fixed_input_size") else [size for size in IMAGE_SIZES if size < default]
    for size in smaller:
        images = torch.randn(2, channels, *frames, size, size)
        try:
            with torch.no_grad():
                model(images)
        except (RuntimeError, ValueError, AssertionError):
            continue
        return (images,)
    return (torch.randn(2, channels, *frames, default, default),)


def _detection_inputs(model: nn.Module) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    size = 320 if type(model).__name__ == "SSD" else 128
    if size == 128:
        model.transform.min_size, model.transform.max_size = (size,), size
    target = {
        "boxes": torch.tensor([[10.0, 20.0, 70.0, 90.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, size, size, dtype=torch.uint8),
        "keypoints": torch.tensor([[[30.0, 40.0, 1.0]] * 17]),
    }
    return [torch.rand(3, size, size) for _ in range(2)], [copy.deepcopy(target) for _ in range(2)]


def _build_timm(name: str, num_classes: int | None) -> nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=num_classes)


def _build_smp(name: str, num_classes: int | None) -> nn.Module:
    family, encoder = name.split("/")
    classes = {} if num_classes is None else {"classes": num_classes}
    return SMP_FAMILIES[family](encoder, encoder_weights=None, **classes)


def _build_torchvision(name: str, num_classes: int | None) -> nn.Module:
    name, *flags = name.split("/")
    options: dict[str, Any] = {"weights": None, **dict.fromkeys(flags, True)}
    if "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None
    if "googlenet" in name or "inception" in name:
        options["init_weights"] = False  # their own initialisation takes minutes and warns
    if num_classes is not None:
        options["num_classes"] = num_classes
    return torchvision.models.get_model(name, **options)


_BUILDERS: dict[str, Callable[[str, int | None], nn.Module]] = {
    "timm": _build_timm,
    "smp": _build_smp,
    "torchvision": _build_torchvision,
}
