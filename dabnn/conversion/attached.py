"""What dabnn notes on a model besides its selection: what is known of a loaded one."""

from __future__ import annotations

from typing import Any

from torch import nn

from dabnn.selection import unwrap

INFO = "dabnn_info"
"""Attribute of a dataset-aware model that holds its `dabnn.models.ModelInfo`, if it was loaded with one."""
NORMALISATION = "input_normalisation"
"""Attribute of a plain model taken out of such a one: mean and standard deviation of its input images."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def attach_info(model: nn.Module, info: Any) -> None:
    """Note what is known of a model on it, in place."""
    vars(unwrap(model))[INFO] = info


def attached_info(model: nn.Module) -> Any:
    """Return what `attach_info` noted, or None."""
    return vars(unwrap(model)).get(INFO)


def attached_normalisation(model: nn.Module) -> Normalisation | None:
    """Return mean and standard deviation of a model's input images, if they are known."""
    info = attached_info(model)
    if info is not None:
        return tuple(info.mean), tuple(info.std)
    normalisation: Normalisation | None = vars(unwrap(model)).get(NORMALISATION)
    return normalisation


def leave_normalisation(plain: nn.Module) -> None:
    """Replace what is noted on a model, in place, by plain numbers: what `dabnn.preprocess` needs."""
    normalisation = attached_normalisation(plain)
    if vars(plain).pop(INFO, None) is not None:
        vars(plain)[NORMALISATION] = normalisation
