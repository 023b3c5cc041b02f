"""One optimizer step with the gradient that is there, if it is finite."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from dabnn.errors import NonFiniteLossError


def update_weights(
    model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler | None, clip_norm: float | None
) -> bool:
    """Clip the gradient and step.

    Args:
        model: Holds the gradient, which is unscaled and clipped in place.
        optimizer: Steps once.
        scaler: The loss scale of half precision, which is adapted, or None.
        clip_norm: Largest norm of the whole gradient.

    Returns:
        False if loss scaling skipped the step for an infinite gradient.

    Raises:
        NonFiniteLossError: If the gradient is not finite and there is no loss scale; no step was made.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if scaler is None and not norm.isfinite():  # a finite loss does not vouch for its gradient
        raise NonFiniteLossError(f"the gradient of {_first_non_finite(model)} is not finite")
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    if scaler is None:
        optimizer.step()
        return True
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return bool(scaler.get_scale() >= scale)


def _first_non_finite(model: nn.Module) -> str:
    named = model.named_parameters()
    return next((n for n, p in named if p.grad is not None and not p.grad.isfinite().all()), "the model")
