"""An exponential moving average of a model, often better than its last weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from dabnn.layers.surgery import Slot, tensor_slots


class ModelAverage:
    """Averages the weights and buffers of a model over the steps; integer buffers are copied.

    A tensor used in several places is averaged once. (Averages that walk a state dict by name do it once
    for each of its names.)

    Attributes:
        module: The average, a model of the same class in eval mode.
        decay: How much of the old average each update keeps, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start as a copy of ``model``."""
        self.module = copy.deepcopy(model).eval()
        self.decay = decay
        self._source: nn.Module | None = None
        self._slots: list[tuple[Slot, Slot]] = []

    def relist(self) -> None:
        """Look up anew which tensors there are in the next update: modules may have been replaced."""
        self._source = None

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards ``model``, which is not changed."""
        if self._source is not model:
            self._slots = list(zip(tensor_slots(self.module), tensor_slots(model), strict=True))
            self._source = model
        pairs = [(averages[a], values[v]) for (averages, a), (values, v) in self._slots]
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        if floating:
            averages, values = zip(*floating, strict=True)
            torch._foreach_lerp_(averages, values, 1 - self.decay)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)
