"""Load plain and dataset-aware checkpoints, with every check before the first tensor is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dabnn.errors import CheckpointError
from dabnn.layers import DatasetAwareHead, DatasetSwitch
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
    branch, in index order. ``model.load_state_dict`` does the same without these checks.

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
    if heads not in ("strict", "skip"):
        raise ValueError(f"heads must be 'strict' or 'skip', got {heads!r}")
    current = model.state_dict()
    expanded = dict(state_dict)
    head_keys: set[str] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, DatasetSwitch):
            prefix = f"{path}." if path else ""
            module.expand_plain_keys(expanded, prefix)
            if isinstance(module, DatasetAwareHead):
                head_keys.update(key for key in current if key.startswith(prefix))
    for key in current.keys() - expanded.keys():
        if key.endswith("num_batches_tracked"):  # absent from checkpoints written before torch 0.4.1
            expanded[key] = torch.zeros((), dtype=torch.long) if current[key].is_meta else current[key]
    mismatched = {k for k in current.keys() & expanded.keys() if _shape(current[k]) != _shape(expanded[k])}
    skipped = sorted(mismatched & head_keys) if heads == "skip" else []
    problems = [f"missing {key}" for key in sorted(current.keys() - expanded.keys())]
    problems += [f"unexpected {key}" for key in sorted(expanded.keys() - current.keys())]
    problems += [
        f"{key} is {_shape(expanded[key])} in the checkpoint, {_shape(current[key])} in the model"
        + (" (pass heads='skip' to keep the model's classifier)" if key in head_keys else "")
        for key in sorted(mismatched - set(skipped))
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"the checkpoint does not fit, nothing was loaded: {shown}")
    for key in skipped:
        expanded[key] = current[key]
    model.load_state_dict(expanded, assign=assign)
    return skipped


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None  # None: a module's extra state
