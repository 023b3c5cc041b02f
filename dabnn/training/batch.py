"""What a batch is, and the default loss on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from dabnn.errors import DataError

Batch = Mapping[str, Any] | Sequence[Any]
LossFunction = Callable[[Any, Any], Tensor]

IGNORE_INDEX = 255


@dataclass(frozen=True)
class Draw:
    """One batch of one dataset, and the factor of its loss in the sum of a DAT step."""

    dataset: str
    batch: Any
    weight: float = 1.0


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


def cross_entropy(output: Any, batch: Batch) -> Tensor:
    """Mean cross-entropy over the labelled pixels or samples (Eq. 3), the default loss.

    Args:
        output: Logits (B, C) or (B, C, H, W), or torchvision's mapping with "out". Maps smaller than the
            target are resized bilinearly.
        batch: Target class ids (B,) or (B, H, W); 255 is ignored. A batch without any label gives 0.
    """
    logits: Tensor = output["out"] if isinstance(output, Mapping) else output
    target = target_of(batch)
    if logits.dim() == 4 and logits.shape[-2:] != target.shape[-2:]:
        logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (target != IGNORE_INDEX).sum().clamp(min=1)


def _member(batch: Batch, position: int, key: str) -> Any:
    if isinstance(batch, Mapping):
        if key in batch:
            return batch[key]
        raise DataError(f"a batch needs the key {key!r}, it has {sorted(batch)}")
    if isinstance(batch, Sequence) and len(batch) == 2:
        return batch[position]
    raise DataError(f"a batch is a pair (inputs, target) or a mapping with 'image' and 'mask', got {type(batch)}")
