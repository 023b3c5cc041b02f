"""What a batch is, and the default loss on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dabnn.errors import ConfigError, DataError

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


def to_channels_last(batch: Any) -> Any:
    """Return a batch of images (B, C, H, W) in the channels-last memory format, any other batch as it is."""
    if isinstance(batch, Mapping) and _is_image(batch.get("image")):
        return {**batch, "image": batch["image"].contiguous(memory_format=torch.channels_last)}
    if isinstance(batch, Sequence) and len(batch) == 2 and _is_image(batch[0]):
        return batch[0].contiguous(memory_format=torch.channels_last), batch[1]
    return batch


def cross_entropy(output: Any, batch: Batch) -> Tensor:
    """Mean cross-entropy over the labelled pixels or samples (Eq. 3), the default loss.

    Args:
        output: Logits (B, C) or (B, C, H, W), or torchvision's mapping with "out". Maps smaller than the
            target are resized bilinearly.
        batch: Target class ids (B,) or (B, H, W); 255 is ignored. A batch without any label gives 0.

    Raises:
        DataError: If a class id is negative or not below C. (On a GPU torch ends the process instead.)
        ConfigError: If the output is neither logits nor a mapping with them.
    """
    logits = output.get("out") if isinstance(output, Mapping) else output
    if not isinstance(logits, Tensor):
        raise ConfigError(
            "the default loss needs logits, or a mapping with them under 'out', but the model returned "
            f"{type(output).__name__}; pass loss=, a function of (output, batch)"
        )
    target = target_of(batch)
    if logits.dim() == 4 and logits.shape[-2:] != target.shape[-2:]:
        logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
    labelled = target != IGNORE_INDEX
    try:
        total = F.cross_entropy(logits, target.long(), ignore_index=IGNORE_INDEX, reduction="sum")
    except IndexError as error:
        outside = target[labelled & ((target < 0) | (target >= logits.shape[1]))].unique().tolist()
        raise DataError(
            f"the target holds the class ids {outside}, but the output has {logits.shape[1]} classes (0 to "
            f"{logits.shape[1] - 1}; {IGNORE_INDEX} is ignored): map the labels, or convert for more classes"
        ) from error
    return total / labelled.sum().clamp(min=1)


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


def _is_image(inputs: Any) -> bool:
    return isinstance(inputs, Tensor) and inputs.dim() == 4
