"""The DAT step: one forward per batch, the sum of the losses, one gradient (Section 3.2, Eq. 3).

Three ways to the same gradient and the same batch-norm buffers:

- ``per_dataset``: a backward after each forward; memory of one dataset. The default.
- ``joint``: all forwards, then one backward through N graphs, as the paper's text has it.
- ``fused``: one forward on the concatenated batch, every norm and classifier working by segment. The
  same as the others but for random layers in train mode, which draw their numbers for the whole batch.

And one to another gradient:

- ``mixed``: as ``fused``, but norms that are shared work with the moments of the whole batch: the joint
  training on mixed batches that the paper's method is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dabnn.batch import inputs_of
from dabnn.errors import ConfigError, DataError
from dabnn.selection import find_selection, use_dataset, use_segments
from dabnn.training.batch import Draw, LossFunction
from dabnn.training.fused import check_padding, check_shared_norms, concatenate, shared_norms, split_output
from dabnn.training.options import BackwardMode, Precision
from dabnn.training.precision import autocast, full

Accumulate = Callable[[Tensor], object]
"""Adds the gradient of a tensor to what is there."""
Finish = Callable[[Tensor, Sequence[Tensor]], object]
"""Adds the last gradient, given the loss of every draw; several processes average the sum."""


class AlternationStep(nn.Module):
    """Maps batches of several datasets to their losses, each under its own branch.

    Attributes:
        model: The dataset-aware model.
        losses: Loss function of each dataset.
        precision: Mixed precision of forwards and losses, which come out in single precision.
    """

    def __init__(
        self, model: nn.Module, losses: Mapping[str, LossFunction], precision: Precision = "no"
    ) -> None:
        """Hold the model; nothing is copied."""
        super().__init__()
        self.model = model
        self.losses = dict(losses)
        self.precision = precision
        self._padding_checked = False
        self._shared_norms: list[tuple[str, nn.Module]] | None = None

    def forward(self, draws: Sequence[Draw], fused: bool = False, selected: bool = False) -> list[Tensor]:
        """Return one scalar loss per draw, not yet weighted.

        Args:
            draws: The batches.
            fused: Make one forward on all batches; the caller has set the segments.
            selected: The caller has selected the dataset of all batches.

        Raises:
            FusedForwardError: If ``fused`` and one forward cannot stand for all.
            DataError: If a batch is malformed; the message names its dataset.
            ConfigError: If a loss function does not return a scalar tensor.
        """
        with autocast(self.model, self.precision):
            if fused:
                outputs = self._fused_outputs(draws)
                losses = [self._loss(draw, output) for draw, output in zip(draws, outputs, strict=True)]
            else:
                losses = [self._forward_one(draw, selected) for draw in draws]
        return [full(loss) for loss in losses]

    def check_shared_norms(self) -> None:
        """Refuse a model whose fused forward would differ from separate forwards.

        Raises:
            FusedForwardError: If a norm that all datasets share works with statistics of the batch.
        """
        if self._shared_norms is None:  # to walk through all modules in every step would take long
            self._shared_norms = shared_norms(self.model)
        check_shared_norms(self._shared_norms)

    def relist(self) -> None:
        """Look up anew which norms are shared at the next check: modules may have been replaced."""
        self._shared_norms = None

    def _forward_one(self, draw: Draw, selected: bool) -> Tensor:
        with nullcontext() if selected else use_dataset(self.model, draw.dataset):
            with _naming([draw]):
                output = self.model(inputs_of(draw.batch))
            return self._loss(draw, output)

    def _fused_outputs(self, draws: Sequence[Draw]) -> list[Any]:
        with _naming(draws):
            inputs = concatenate(draws)
            outputs = split_output(self.model, draws, self.model(inputs))
        if not self._padding_checked:  # a property of the model: once is enough
            check_padding(draws, outputs)
            self._padding_checked = True
        return outputs

    def _loss(self, draw: Draw, output: Any) -> Tensor:
        with _naming([draw]):
            loss = self.losses[draw.dataset](output, draw.batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            kind = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"type {type(loss).__name__}"
            raise ConfigError(f"the loss of dataset {draw.dataset!r} must return a scalar tensor, got {kind}")
        return loss


def backward_per_dataset(
    step: AlternationStep, draws: Sequence[Draw], accumulate: Accumulate, finish: Finish
) -> None:
    """Accumulate the gradient draw by draw."""
    losses = []
    for number, draw in enumerate(draws, 1):
        # The backward stays inside, for activation checkpointing runs the forward again in it.
        with use_dataset(step.model, draw.dataset):
            (loss,) = step([draw], selected=True)
            losses.append(loss.detach())
            if number < len(draws):
                accumulate(loss * draw.weight)
            else:
                finish(loss * draw.weight, losses)


def backward_joint(
    step: AlternationStep, draws: Sequence[Draw], accumulate: Accumulate, finish: Finish
) -> None:
    """Run all forwards, then one backward of the sum.

    No dataset is active during the backward: a checkpointed model raises instead of recomputing under
    the wrong one.
    """
    selection = find_selection(step.model)
    previous, selection.active = selection.active, None
    try:
        losses = step(draws)
        finish(_weighted_sum(losses, draws), losses)
    finally:
        selection.active = previous


def backward_fused(
    step: AlternationStep, draws: Sequence[Draw], accumulate: Accumulate, finish: Finish
) -> None:
    """Run one forward on the concatenated batch and one backward; no norm sees more than one dataset."""
    step.check_shared_norms()
    backward_mixed(step, draws, accumulate, finish)


def backward_mixed(
    step: AlternationStep, draws: Sequence[Draw], accumulate: Accumulate, finish: Finish
) -> None:
    """Run one forward on the concatenated batch and one backward; shared norms see all datasets together."""
    selection = find_selection(step.model)
    segments = [(selection.index(draw.dataset), _batch_size(draw)) for draw in draws]
    with use_segments(step.model, segments):
        losses = step(draws, fused=True)
        finish(_weighted_sum(losses, draws), losses)


BACKWARD: dict[BackwardMode, Callable[[AlternationStep, Sequence[Draw], Accumulate, Finish], None]] = {
    "per_dataset": backward_per_dataset,
    "joint": backward_joint,
    "fused": backward_fused,
    "mixed": backward_mixed,
}


def _batch_size(draw: Draw) -> int:
    with _naming([draw]):
        return len(inputs_of(draw.batch))


def _weighted_sum(losses: Sequence[Tensor], draws: Sequence[Draw]) -> Tensor:
    return torch.stack([loss * draw.weight for loss, draw in zip(losses, draws, strict=True)]).sum()


@contextmanager
def _naming(draws: Sequence[Draw]) -> Iterator[None]:
    """Name the dataset in whatever its batch makes the model or the loss raise."""
    names = " + ".join(dict.fromkeys(repr(draw.dataset) for draw in draws))
    try:
        yield
    except DataError as error:
        raise DataError(f"dataset {names}: {error}") from error
    except Exception as error:
        if "more than 1 value per channel" in str(error):
            smallest = min(draws, key=lambda draw: len(inputs_of(draw.batch))).dataset
            raise DataError(
                f"dataset {smallest!r}: a batch norm saw a single value per channel ({error}); use batches "
                "of 2 or more (drop_last=True keeps a short last batch out)"
            ) from error
        error.add_note(f"This was raised for a batch of dataset {names}.")
        raise
