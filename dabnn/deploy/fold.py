"""Fold batch norms into the convolutions before them: the same function in fewer operations."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from dabnn.conversion.classifiers import LINEAR
from dabnn.errors import ConversionError
from dabnn.layers import DatasetSwitch
from dabnn.layers.surgery import replace_modules, statistics_of

TOLERANCE = 1e-4
"""Largest difference allowed between the model and its folded copy, relative to the largest output."""


def fold_batch_norm(model: nn.Module, example: Any = None) -> nn.Module:
    """Return a copy for inference with every batch norm folded that directly follows a convolution.

    Which layer feeds which norm is seen in one forward of ``example``; the copy is then compared with the
    model on it. Norms that follow something else (those before an activation, as in DenseNet) stay.

    Args:
        model: A plain model, such as `dabnn.extract_dataset` gives; it is not changed.
        example: Input of one forward; default a random image batch (1, 3, 64, 64).

    Returns:
        The copy, in eval mode.

    Raises:
        ConversionError: If the model is dataset-aware, or its folded copy computes something else.
    """
    if any(isinstance(module, DatasetSwitch) for module in model.modules()):
        raise ConversionError(
            "take the plain model of one dataset with dabnn.extract_dataset, then fold that"
        )
    folded = copy.deepcopy(model).eval()
    if example is None:
        like = next(folded.parameters())
        example = torch.rand(1, 3, 64, 64, dtype=like.dtype, device=like.device)
    expected, pairs = _producers(folded, example)
    for norm, layer in pairs.items():
        _fold(layer, norm)
    folded = replace_modules(folded, {norm: _remainder(norm) for norm in pairs})
    _compare(expected, folded, example)
    return folded


@torch.no_grad()
def _producers(model: nn.Module, example: Any) -> tuple[list[Tensor], dict[_BatchNorm, nn.Module]]:
    """Return the output, and for each batch norm the layer whose output it normalises, if both run once."""
    outputs: list[tuple[Tensor, nn.Module]] = []  # holding on to the tensors keeps their identities apart
    inputs: list[tuple[_BatchNorm, Tensor]] = []
    handles = []
    for module in model.modules():
        if isinstance(module, LINEAR):
            handles.append(module.register_forward_hook(lambda m, _, y: outputs.append((y, m))))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(lambda m, args: inputs.append((m, args[0]))))
    try:
        result = _tensors(model(example))
    finally:
        for handle in handles:
            handle.remove()
    runs = [module for _, module in outputs] + [norm for norm, _ in inputs]
    pairs = {}
    for norm, x in inputs:
        layer = next((layer for y, layer in outputs if y is x), None)
        if layer is not None and runs.count(layer) == runs.count(norm) == 1:
            pairs[norm] = layer
    return result, pairs


def _fold(layer: nn.Module, norm: _BatchNorm) -> None:
    """Change weight and bias of ``layer``, in place, so that it does what both did."""
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    arguments = *statistics_of(norm), norm.eps, norm.weight, norm.bias
    layer.weight, layer.bias = fuse(layer.weight, layer.bias, *arguments)  # type: ignore[arg-type]


def _remainder(norm: _BatchNorm) -> nn.Module:
    """Return what a norm does besides normalising: timm's fused activation, or nothing."""
    inner = [getattr(norm, name, None) for name in ("drop", "act")]
    kept = [m for m in inner if isinstance(m, nn.Module) and not isinstance(m, nn.Identity)]
    return nn.Sequential(*kept).eval() if kept else nn.Identity()


@torch.no_grad()
def _compare(expected: list[Tensor], folded: nn.Module, example: Any) -> None:
    for reference, output in zip(expected, _tensors(folded(example)), strict=True):
        error = (output - reference).abs().max() / reference.abs().max().clamp(min=1e-12)
        if not error <= TOLERANCE:
            raise ConversionError(
                f"the folded model differs by {error:.1e} of the largest output: {type(folded).__name__} "
                "uses what a convolution gives in other ways than through its batch norm; serve it unfolded"
            )


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in _tensors(value)]
    return [tensor for value in output for tensor in _tensors(value)]
