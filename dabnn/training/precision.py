"""Mixed precision: what forwards are computed in, and the loss scale that fp16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dabnn.errors import ConfigError
from dabnn.training.options import Precision

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(model: nn.Module, precision: Precision) -> AbstractContextManager[object]:
    """Return a context in which a model computes in a precision, on the device it is on."""
    if precision not in DTYPES:
        return nullcontext()
    device = next(model.parameters()).device
    return torch.autocast(device.type, DTYPES[precision])


def full(loss: Tensor) -> Tensor:
    """Return a loss in single precision if it is in half, for weights and scale may be out of its range."""
    return loss.float() if loss.dtype in DTYPES.values() else loss


def loss_scale(precision: Precision, device: torch.device) -> torch.amp.GradScaler | None:
    """Return the loss scale of fp16, None for the other precisions.

    Raises:
        ConfigError: If the device does not support the precision.
    """
    if precision != "fp16":
        return None
    if device.type == "cpu":
        raise ConfigError("precision='fp16' needs a GPU; use 'bf16' or 'no'")
    return torch.amp.GradScaler(device.type)
