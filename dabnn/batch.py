"""What goes into a model and comes out: batches are pairs or mappings, outputs logits or mappings of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dabnn.errors import DataError

IGNORE_INDEX = 255
"""What stands in a target where nothing is labelled."""

Batch = Mapping[str, Any] | Sequence[Any]


def inputs_of(batch: Batch) -> Any:
    """Return what goes into the model: the first of a pair, or ``batch["image"]``.

    Raises:
        DataError: If the batch is neither a pair nor a mapping with "image".
    """
    return _member(batch, 0, "image")


def target_of(batch: Batch) -> Any:
    """Return the target: the second of a pair, or ``batch["mask"]``.

    Raises:
        DataError: If the batch is neither a pair nor a mapping with "mask".
    """
    return _member(batch, 1, "mask")


def logits_of(output: Any) -> Any:
    """Return the main output of a model: that under "out" of a mapping, the first of a sequence, or itself.

    Mappings are torchvision's, with an auxiliary output under "aux"; sequences start with the main output.
    """
    if isinstance(output, Mapping):
        return output.get("out", output)
    return output[0] if isinstance(output, tuple | list) and output else output


def _member(batch: Batch, position: int, key: str) -> Any:
    if isinstance(batch, Mapping):
        if key in batch:
            return batch[key]
        raise DataError(f"a batch needs the key {key!r}, it has {sorted(batch)}")
    if isinstance(batch, Sequence) and len(batch) == 2:
        return batch[position]
    raise DataError(
        f"a batch is a pair (inputs, target) or a mapping with 'image' and 'mask', got a {_describe(batch)}"
    )


def _describe(batch: Any) -> str:
    return f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, Sequence) else type(batch).__name__
