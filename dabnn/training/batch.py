"""One batch of one dataset in a step, and the default loss on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dabnn.batch import IGNORE_INDEX, Batch, target_of
from dabnn.errors import ConfigError, DataError

LossFunction = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Draw:
    """One batch of one dataset, and the factor of its loss in the sum of a DAT step."""

    dataset: str
    batch: Any
    weight: float = 1.0


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
        DataError: If the target is no integer tensor, or a class id is negative or not below C. (On a GPU
            torch ends the process instead.)
        ConfigError: If the output is neither logits nor a mapping with them.
    """
    logits = output.get("out") if isinstance(output, Mapping) else output
    if not isinstance(logits, Tensor):
        raise ConfigError(
            "the default loss needs logits, or a mapping with them under 'out', but the model returned "
            f"{type(output).__name__}; pass loss=, a function of (output, batch)"
        )
    target = target_of(batch)
    if target.is_floating_point():
        raise DataError(
            f"the target is {target.dtype}, not class ids: was a mask scaled to [0, 1] like an image?"
        )
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


def _is_image(inputs: Any) -> bool:
    return isinstance(inputs, Tensor) and inputs.dim() == 4
