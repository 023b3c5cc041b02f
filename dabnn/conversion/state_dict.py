"""Load plain and dataset-aware checkpoints, with every check before the first tensor is written."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dabnn.errors import CheckpointError, listed
from dabnn.layers import DatasetAwareHead
from dabnn.layers.switch import named_switches
from dabnn.selection import find_selection


def load_state_dict(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    heads: Literal["strict", "skip"] = "strict",
    assign: bool = False,
) -> list[str]:
    """Load a checkpoint into a converted model; nothing is written unless all of it fits.

    A plain checkpoint is broadcast: every branch gets its own copy of the norm, and of the classifier
    where the shapes match. A checkpoint with branches (ours, or DSBN's ``bns.<i>`` keys) loads branch by
    branch, in index order. ``model.load_state_dict`` broadcasts as well, without these checks; entries that
    a model's own ``load_state_dict`` renames (old files of SMP's timm encoders) load through that one only.

    Args:
        model: A converted model; its parameters and buffers are overwritten.
        state_dict: Names and tensors.
        heads: What to do with classifiers of another number of classes: "strict" raises, "skip" leaves
            them as they are.
        assign: Use the given tensors themselves instead of copying them into the model's.

    Returns:
        The keys of classifiers that were skipped.

    Raises:
        CheckpointError: If names, shapes or the number of datasets do not fit.
        NotDatasetAwareError: If the model was not converted.
    """
    find_selection(model)
    return load_checked(model, state_dict, heads=heads, assign=assign)


def load_checked(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    heads: Literal["strict", "skip"] = "strict",
    assign: bool = False,
) -> list[str]:
    """Do what `load_state_dict` does, for parts of a model and plain ones too."""
    if heads not in ("strict", "skip"):
        raise ValueError(f"heads must be 'strict' or 'skip', got {heads!r}")
    current = model.state_dict()
    expanded = _expand(model, state_dict, current)
    mismatched = {k for k in current.keys() & expanded.keys() if _shape(current[k]) != _shape(expanded[k])}
    branches = _head_branches(model)
    skipped: list[str] = []
    if heads == "skip":  # a classifier as a whole, even if only its weight does not fit
        unfit = tuple(branch for branch in branches if any(key.startswith(branch) for key in mismatched))
        skipped = sorted(key for key in current if key.startswith(unfit))
        expanded.update((key, current[key]) for key in skipped)
    problems = [f"missing {key}" for key in sorted(current.keys() - expanded.keys())]
    problems += [f"unexpected {key}" for key in sorted(expanded.keys() - current.keys())]
    problems += [
        f"{key} is {_shape(expanded[key])} in the checkpoint, {_shape(current[key])} in the model"
        + (" (pass heads='skip' to keep the model's classifier)" if key.startswith(branches) else "")
        for key in sorted(mismatched - set(skipped))
    ]
    if problems:
        shown = listed(problems, separator="; ")
        raise CheckpointError(f"the checkpoint does not fit, nothing was loaded: {shown}")
    model.load_state_dict(expanded, assign=assign)
    return skipped


def _expand(model: nn.Module, state_dict: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checkpoint with one entry per branch, and with counters that old checkpoints lack."""
    expanded = OrderedDict(state_dict)
    # Layers upgrade old entries by the version that torch notes beside them.
    expanded._metadata = getattr(state_dict, "_metadata", {})  # type: ignore[attr-defined]
    for path, switch in named_switches(model, remove_duplicate=False):
        switch.expand_plain_keys(expanded, _prefix(path))
    for key in current.keys() - expanded.keys():
        if key.endswith("num_batches_tracked"):  # absent from checkpoints written before torch 0.4.1
            expanded[key] = torch.zeros((), dtype=torch.long) if current[key].is_meta else current[key]
    return expanded


def _head_branches(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the classifiers of all datasets."""
    return tuple(
        f"{_prefix(path)}{switch.branch_list}.{i}."
        for path, switch in named_switches(model, remove_duplicate=False)
        if isinstance(switch, DatasetAwareHead)
        for i in range(len(switch.branches))
    )


def _prefix(path: str) -> str:
    return f"{path}." if path else ""


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None  # None: a module's extra state
