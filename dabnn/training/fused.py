"""The fused forward: what goes into it, what comes out of it, and when it would be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from dabnn.batch import inputs_of
from dabnn.conversion.classifiers import head_width
from dabnn.errors import FusedForwardError
from dabnn.layers import DatasetAwareHead, DatasetSwitch
from dabnn.training.batch import Draw

INSTEAD = "use backward='per_dataset'"


def shared_norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the norms that all datasets share, with their paths."""
    inside = {id(m) for s in model.modules() if isinstance(s, DatasetSwitch) for m in s.modules()}
    named = model.named_modules()
    return [(path, m) for path, m in named if isinstance(m, _NormBase) and id(m) not in inside]


def check_shared_norms(norms: Sequence[tuple[str, nn.Module]]) -> None:
    """Refuse norms with which a fused forward would differ from separate forwards.

    Raises:
        FusedForwardError: If one uses or collects statistics of the batch, which holds the samples of all
            datasets.
    """
    for path, norm in norms:
        if _uses_batch_statistics(norm):
            raise FusedForwardError(
                f"{path} ({type(norm).__name__}) is shared by all datasets and works with statistics of "
                f"the batch, which would mix them; convert it, freeze it with .eval(), or {INSTEAD}"
            )


def concatenate(draws: Sequence[Draw]) -> Tensor:
    """Return the inputs of all draws as one batch, in order.

    Raises:
        FusedForwardError: If the inputs are not tensors of one size.
    """
    inputs = [inputs_of(draw.batch) for draw in draws]
    if not all(isinstance(x, Tensor) for x in inputs):
        kinds = sorted({type(x).__name__ for x in inputs})
        raise FusedForwardError(f"a fused forward needs tensors as inputs, got {kinds}; {INSTEAD}")
    if len({tuple(x.shape[1:]) for x in inputs}) != 1:
        shapes = {draw.dataset: tuple(x.shape) for draw, x in zip(draws, inputs, strict=True)}
        raise FusedForwardError(
            f"a fused forward needs inputs of one size, got {shapes}; crop to one size or {INSTEAD}"
        )
    return torch.cat(inputs)


def split_output(model: nn.Module, draws: Sequence[Draw], output: Any) -> list[Any]:
    """Return the output of each draw, with the classes of its dataset only.

    Args:
        model: The converted model.
        draws: What was concatenated.
        output: Logits (sum of batch sizes, C, ...), or a mapping of several, as torchvision's.

    Raises:
        FusedForwardError: If the output has another form, or not the classifiers' number of channels.
    """
    if isinstance(output, Mapping):
        values = {key: split_output(model, draws, value) for key, value in output.items()}
        return [{key: value[i] for key, value in values.items()} for i in range(len(draws))]
    sizes = [len(inputs_of(draw.batch)) for draw in draws]
    if not isinstance(output, Tensor) or output.dim() < 2 or len(output) != sum(sizes):
        kind = (
            f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}"
        )
        raise FusedForwardError(f"cannot divide an output of {kind} by dataset; {INSTEAD}")
    parts = torch.split(output, sizes)
    if not any(isinstance(module, DatasetAwareHead) for module in model.modules()):
        return list(parts)
    widths = [head_width(model, draw.dataset) for draw in draws]
    known = [width for width in widths if width is not None]
    if len(known) < len(widths) or max(known) != output.shape[1]:
        raise FusedForwardError(
            f"the classifiers are of width {widths}, but the model returned {output.shape[1]} channels, "
            f"which cannot be divided by dataset; {INSTEAD}"
        )
    return [part[:, :width] for part, width in zip(parts, widths, strict=True)]


def check_padding(draws: Sequence[Draw], outputs: Sequence[Any]) -> None:
    """Refuse a layer after the classifiers that mixes channels.

    Where a dataset has fewer classes than another, its logits are padded with NaN until `split_output`
    cuts them. A softmax, say, would spread the NaN to the logits.

    Raises:
        FusedForwardError: If only outputs that were padded hold NaN, though their inputs do not.
    """
    logits = [next(iter(output.values())) if isinstance(output, Mapping) else output for output in outputs]
    widest = max(part.shape[1] for part in logits)
    if any(part.isnan().any() for part in logits if part.shape[1] == widest):
        return  # the model itself gives NaN
    for draw, part in zip(draws, logits, strict=True):
        if part.isnan().any() and not inputs_of(draw.batch).isnan().any():
            raise FusedForwardError(
                f"a layer after the classifiers mixes channels: the {part.shape[1]} logits of dataset "
                f"{draw.dataset!r}, padded to {widest} for the fused forward, came out as NaN; move that "
                f"layer into the loss, or {INSTEAD}"
            )


def _uses_batch_statistics(module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm):
        return module.training or module.running_mean is None
    return module.training and module.running_mean is not None  # an instance norm that tracks statistics
