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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dabnn.batch import inputs_of
from dabnn.errors import ConfigError, DataError
from dabnn.selection import find_selection, use_dataset, use_segments
from dabnn.training.batch import Draw, LossFunction
from dabnn.training.fused import check_padding, concatenate, split_output

BackwardMode = Literal["per_dataset", "joint", "fused", "mixed"]
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
        self._padding_checked = False

    def forward(self, draws: Sequence[Draw], fused: bool = False) -> list[Tensor]:
        """Return one scalar loss per draw, not yet weighted.

        Raises:
            FusedForwardError: If ``fused`` and one forward cannot stand for all.
            DataError: If a batch is malformed; the message names its dataset.
            ConfigError: If a loss function does not return a scalar tensor.
        """
        if fused:
            outputs = self._fused_outputs(draws)
            return [self._loss(draw, output) for draw, output in zip(draws, outputs, strict=True)]
        return [self._forward_one(draw) for draw in draws]

    def _forward_one(self, draw: Draw) -> Tensor:
        with use_dataset(self.model, draw.dataset):
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


def backward_per_dataset(step: nn.Module, draws: Sequence[Draw], backward: BackwardFunction) -> list[Tensor]:
    """Accumulate the gradient draw by draw; returns the unweighted losses.

    Several processes exchange the accumulated gradient once, in the last backward.
    """
    losses = []
    for number, draw in enumerate(draws, 1):
        # The backward stays inside, for activation checkpointing runs the forward again in it.
        with use_dataset(model_of(step), draw.dataset), _exchanging(step, number == len(draws)):
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
    segments = [(selection.index(draw.dataset), _batch_size(draw)) for draw in draws]
    with use_segments(model_of(step), segments):
        losses = step(draws, fused=True)
        backward(_weighted_sum(losses, draws))
    return [loss.detach() for loss in losses]


BACKWARD: dict[str, Callable[[nn.Module, Sequence[Draw], BackwardFunction], list[Tensor]]] = {
    "per_dataset": backward_per_dataset,
    "joint": backward_joint,
    "fused": backward_fused,
    "mixed": backward_fused,
}


def model_of(step: nn.Module) -> nn.Module:
    """Return the dataset-aware model inside a step, wrapped for parallel training or not."""
    return getattr(step, "module", step).model  # type: ignore[return-value]


def _exchanging(step: nn.Module, exchange: bool) -> AbstractContextManager[None]:
    if exchange or not isinstance(step, DistributedDataParallel):
        return nullcontext()
    return step.no_sync()


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
