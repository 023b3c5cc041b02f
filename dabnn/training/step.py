"""The DAT step: one forward per batch, the sum of the losses, one gradient (Section 3.2, Eq. 3).

Three ways to the same gradient and the same batch-norm buffers:

- ``per_dataset``: a backward after each forward; memory of one dataset. The default.
- ``joint``: all forwards, then one backward through N graphs, as the paper's text has it.
- ``fused``: one forward on the concatenated batch, every norm and classifier working by segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dabnn.errors import DataError, FusedForwardError
from dabnn.layers import DatasetSwitch
from dabnn.selection import find_selection, use_dataset, use_segments
from dabnn.training.batch import Draw, LossFunction, inputs_of

BackwardMode = Literal["per_dataset", "joint", "fused"]
BackwardFunction = Callable[[Tensor], None]


class AlternationStep(nn.Module):
    """Maps batches of several datasets to their losses, each under its own branch.

    This is the module that mixed precision and distributed training wrap, so that one call covers all
    forwards.

    Attributes:
        model: The dataset-aware model.
        losses: Loss function of each dataset.
    """

    def __init__(self, model: nn.Module, losses: Mapping[str, LossFunction]) -> None:
        """Hold the model; nothing is copied."""
        super().__init__()
        self.model = model
        self.losses = dict(losses)

    def forward(self, draws: Sequence[Draw], fused: bool = False) -> list[Tensor]:
        """Return one scalar loss per draw, not yet weighted.

        Raises:
            FusedForwardError: If ``fused`` and the batches cannot be concatenated.
        """
        outputs = self._fused_outputs(draws) if fused else map(self._output, draws)
        return [
            self.losses[draw.dataset](output, draw.batch) for draw, output in zip(draws, outputs, strict=True)
        ]

    def _output(self, draw: Draw) -> Any:
        try:
            with use_dataset(self.model, draw.dataset):
                return self.model(inputs_of(draw.batch))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise DataError(
                f"dataset {draw.dataset!r}: a batch norm saw a single value per channel ({error}); use batches of "
                "2 or more (drop_last=True keeps a short last batch out)"
            ) from error

    def _fused_outputs(self, draws: Sequence[Draw]) -> list[Tensor]:
        inputs = [inputs_of(draw.batch) for draw in draws]
        if len({tuple(x.shape[1:]) for x in inputs}) != 1:
            shapes = {draw.dataset: tuple(x.shape) for draw, x in zip(draws, inputs, strict=True)}
            raise FusedForwardError(
                f"a fused forward needs inputs of one size, got {shapes}; crop to one size or use "
                "backward='per_dataset'"
            )
        output = self.model(torch.cat(inputs))
        logits = output["out"] if isinstance(output, Mapping) else output
        parts = torch.split(logits, [len(x) for x in inputs])
        widths = self._widths(draws)
        return [part if width is None else part[:, :width] for part, width in zip(parts, widths, strict=True)]

    def _widths(self, draws: Sequence[Draw]) -> list[int | None]:
        """Number of classes per draw; None when the classifier is shared."""
        selection = find_selection(self.model)
        heads = [module for module in self.model.modules() if isinstance(module, DatasetSwitch)]
        heads = [module for module in heads if module.branch_list == "heads"]
        if not heads:
            return [None] * len(draws)
        branches = [heads[-1].branches[selection.index(draw.dataset)] for draw in draws]
        return [branch.weight.shape[0] for branch in branches]  # type: ignore[union-attr, index, misc]


def backward_per_dataset(step: nn.Module, draws: Sequence[Draw], backward: BackwardFunction) -> list[Tensor]:
    """Accumulate the gradient draw by draw; returns the unweighted losses."""
    losses = []
    for draw in draws:
        # The backward stays inside, for activation checkpointing runs the forward again in it.
        with use_dataset(model_of(step), draw.dataset):
            (loss,) = step([draw])
            backward(loss * draw.weight)
        losses.append(loss.detach())
    return losses


def backward_joint(step: nn.Module, draws: Sequence[Draw], backward: BackwardFunction) -> list[Tensor]:
    """Run all forwards, then one backward of the sum; returns the unweighted losses.

    No dataset is active during the backward: a checkpointed model raises instead of recomputing under
    the wrong one.
    """
    selection = find_selection(model_of(step))
    previous, selection.active = selection.active, None
    try:
        losses = step(draws)
        backward(_weighted_sum(losses, draws))
    finally:
        selection.active = previous
    return [loss.detach() for loss in losses]


def backward_fused(step: nn.Module, draws: Sequence[Draw], backward: BackwardFunction) -> list[Tensor]:
    """Run one forward on the concatenated batch and one backward; returns the unweighted losses."""
    selection = find_selection(model_of(step))
    segments = [(selection.index(draw.dataset), len(inputs_of(draw.batch))) for draw in draws]
    with use_segments(model_of(step), segments):
        losses = step(draws, fused=True)
        backward(_weighted_sum(losses, draws))
    return [loss.detach() for loss in losses]


BACKWARD: dict[str, Callable[[nn.Module, Sequence[Draw], BackwardFunction], list[Tensor]]] = {
    "per_dataset": backward_per_dataset,
    "joint": backward_joint,
    "fused": backward_fused,
}


def check_fused(model: nn.Module) -> None:
    """Refuse a model whose fused forward would differ from separate forwards.

    Raises:
        FusedForwardError: If a batch norm in training mode is not dataset-aware: it would mix the
            statistics of all datasets in the batch.
    """
    inside = {id(m) for s in model.modules() if isinstance(s, DatasetSwitch) for m in s.modules()}
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training and id(module) not in inside:
            raise FusedForwardError(
                f"{path} ({type(module).__name__}) is shared by all datasets and in training mode, so a fused batch "
                "would mix their statistics; convert or freeze it, or use backward='per_dataset'"
            )


def model_of(step: nn.Module) -> nn.Module:
    """Return the dataset-aware model inside a step, wrapped for parallel training or not."""
    return getattr(step, "module", step).model  # type: ignore[return-value]


def _weighted_sum(losses: Sequence[Tensor], draws: Sequence[Draw]) -> Tensor:
    return torch.stack([loss * draw.weight for loss, draw in zip(losses, draws, strict=True)]).sum()
