"""An exponential moving average of a model, often better than its last weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


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

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards ``model``, which is not changed."""
        for average, value in zip(_tensors(self.module), _tensors(model), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - self.decay)
            else:
                average.copy_(value)


def _tensors(model: nn.Module) -> Iterable[Tensor]:
    return {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}.values()
