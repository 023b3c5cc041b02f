"""What a trainer does in one step: read, compute the gradient, update, in all processes or in none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from dabnn.errors import DataError, NonFiniteLossError
from dabnn.training.agreement import Agreement, forwards_exchange
from dabnn.training.batch import Draw, to_channels_last
from dabnn.training.checkpoint import latest_checkpoint
from dabnn.training.options import TrainerOptions
from dabnn.training.prepare import to_device
from dabnn.training.processes import agreed
from dabnn.training.state import RunState
from dabnn.training.step import BACKWARD, AlternationStep
from dabnn.training.update import update_weights


class Stepper:
    """Makes the steps of a run.

    Attributes:
        run: What the steps change.
        alternation: Computes the losses.
        exchange: What the last loss goes through, for several processes to average the gradient.
        options: How the steps are made.
        device: Where the batches are moved to.
    """

    def __init__(
        self,
        run: RunState,
        alternation: AlternationStep,
        exchange: nn.Module,
        options: TrainerOptions,
        device: torch.device,
    ) -> None:
        """Prepare for the model as it is; after a change of its modules call `relist`."""
        self.run = run
        self.alternation = alternation
        self.exchange = exchange
        self.options = options
        self.device = device
        self.relist()

    def relist(self) -> None:
        """Look up anew what is kept about the modules of the model."""
        self.alternation.relist()
        if self.run.ema is not None:
            self.run.ema.relist()
        self._forwards_exchange = forwards_exchange(self.run.model)

    def make(self, draw: Callable[[], Sequence[Draw]]) -> dict[str, float]:
        """Make one step; return the mean unweighted loss of each dataset.

        Args:
            draw: Returns this process's batches.

        Raises:
            NonFiniteLossError: If a loss or gradient is NaN or infinite.
            ProcessError: If another process failed before the gradient was exchanged.
        """
        run, agreement = self.run, self._agreement()
        with agreement.covering():
            draws = agreed(draw) if self._forwards_exchange else draw()
            groups = self._groups([replace(draw, batch=self._to_device(draw.batch)) for draw in draws])
        losses: dict[str, list[float]] = {}
        updated = False
        for group in groups:
            try:
                means = self._compute_gradient(group, agreement)
                updated |= update_weights(run.model, run.optimizer, run.scaler, self.options.clip_norm)
            except NonFiniteLossError as error:
                run.optimizer.zero_grad(set_to_none=True)
                raise NonFiniteLossError(self._explained(error)) from None
            for name, loss in means.items():
                losses.setdefault(name, []).append(loss)
            agreement = self._agreement()
        if run.scheduler is not None and updated:
            run.scheduler.step()
        if run.ema is not None:
            run.ema.update(run.model)
        run.step += 1
        return {name: fmean(losses[name]) for name in run.loaders.weights if name in losses}

    def _groups(self, draws: list[Draw]) -> list[list[Draw]]:
        """Divide the draws of a step by optimizer step."""
        if self.options.update == "alternation":
            return [draws]
        groups = [[draw] for draw in draws]
        if self.options.update == "shuffled":
            Random(self.run.step).shuffle(groups)  # the same order in every process, and after resuming
        return groups

    def _compute_gradient(self, draws: Sequence[Draw], agreement: Agreement) -> dict[str, float]:
        """Replace the gradient by that of the draws' weighted sum; return each dataset's mean loss."""
        means: dict[str, float] = {}

        def finish(loss: Tensor, losses: Sequence[Tensor]) -> None:
            means.update(agreement.on_losses(draws, losses))
            self._accumulate(self.exchange(loss))

        # None, or weight decay would move the other datasets.
        self.run.optimizer.zero_grad(set_to_none=True)
        with agreement.covering():
            try:
                BACKWARD[self.options.backward](self.alternation, draws, self._accumulate, finish)
            except DataError as error:
                raise DataError(f"in step {self.run.step + 1}, {error}") from error
        return means

    def _accumulate(self, loss: Tensor) -> None:
        scaler = self.run.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()

    def _agreement(self) -> Agreement:
        return Agreement(self.run.loaders.weights, telling=not self._forwards_exchange)

    def _to_device(self, batch: Any) -> Any:
        batch = to_device(batch, self.device)
        return to_channels_last(batch) if self.options.channels_last else batch

    def _explained(self, error: NonFiniteLossError) -> str:
        folder = self.options.checkpoints
        last = latest_checkpoint(folder) if folder is not None else None
        return (
            f"{error} in step {self.run.step + 1}; no optimizer step was made with it. Last checkpoint: "
            f"{last}. Lower the learning rate, clip the gradient (clip_norm), or look at the batches of that "
            "step"
        )
