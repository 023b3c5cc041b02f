"""Classifiers: which layers they are made of, how wide they are, and how they are built for other classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from dabnn.errors import ClassifierNotFoundError
from dabnn.layers import DatasetAwareHead
from dabnn.layers.surgery import copy_without_hooks
from dabnn.selection import DatasetKey, find_selection

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""The layers that give classes."""

HeadFactory = Callable[[nn.Module, int], nn.Module]
"""From an old classifier and a number of classes to a new classifier."""


def width_attribute(layer: nn.Module) -> str:
    """Return the name of the attribute in which a linear or convolution layer keeps its output width."""
    return "out_features" if isinstance(layer, nn.Linear) else "out_channels"


def width_of(layer: nn.Module) -> int:
    """Return the output width of a linear or convolution layer: its number of classes."""
    width: int = getattr(layer, width_attribute(layer))
    return width


def head_width(model: nn.Module, dataset: DatasetKey) -> int | None:
    """Return the number of classes of a dataset's own classifier; None when it is shared or unknown."""
    index = find_selection(model).index(dataset)
    heads = [module.branches[index] for module in model.modules() if isinstance(module, DatasetAwareHead)]
    layers = [module for head in heads for module in head.modules() if isinstance(module, LINEAR)]
    return width_of(layers[-1]) if layers else None


def last_linear(model: nn.Module, root: str) -> str | None:
    """Return the path of the last linear or convolution layer below (or at) ``root``, if there is one."""
    try:
        module = model.get_submodule(root)
    except AttributeError:
        return None
    if module is None:  # torchvision: aux_classifier=None
        return None
    inside = [name for name, child in module.named_modules() if isinstance(child, LINEAR)]
    return ".".join(part for part in (root, inside[-1]) if part) if inside else None


def resize_classifier(old: nn.Module, num_classes: int) -> nn.Module:
    """Return a newly initialised copy of a linear or convolution layer for another number of classes.

    Args:
        old: An `torch.nn.Linear` or `torch.nn.Conv2d` (1d, 3d); it is not changed.
        num_classes: Output features or channels of the new layer.
    """
    new = copy_without_hooks(old)
    for name in ("weight", "bias"):
        tensor = getattr(old, name)
        if tensor is not None:
            resized = tensor.new_empty(num_classes, *tensor.shape[1:])
            setattr(new, name, nn.Parameter(resized, tensor.requires_grad))
    setattr(new, width_attribute(new), num_classes)
    new.reset_parameters()  # type: ignore[operator]
    return new


def check_classifier(path: str, module: nn.Module, num_classes: Sequence[int]) -> None:
    """Raise ClassifierNotFoundError if a classifier cannot be rebuilt for other numbers of classes."""
    if not isinstance(module, LINEAR):
        inside = [f"{path}.{name}" for name, child in module.named_modules() if isinstance(child, LINEAR)]
        raise ClassifierNotFoundError(
            f"classifier {path!r} is a {type(module).__name__}, which cannot be resized; name the layer "
            f"inside it (one of {inside}) or pass head_factory(old, num_classes)"
        )
    if all(number == width_of(module) for number in num_classes):
        return
    reason = ""
    if others := [key for key in module.state_dict() if key not in ("weight", "bias")]:
        reason = f"it holds {others}"
    groups = getattr(module, "groups", 1)
    if any(number % groups for number in num_classes):
        reason = f"its {groups} groups do not divide {list(num_classes)}"
    if reason:
        raise ClassifierNotFoundError(
            f"classifier {path!r} ({type(module).__name__}) cannot be resized: {reason}; pass "
            "head_factory(old, num_classes)"
        )
