"""Run a segmentation model on images of any size, and measure it on a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dabnn.batch import inputs_of, logits_of, target_of
from dabnn.evaluation.metrics import SegmentationMetric, SegmentationResult
from dabnn.layers.surgery import eval_mode

Predict = Callable[[nn.Module, Tensor], Tensor]
"""From a model and images (B, 3, H, W) to scores (B, C, H, W)."""


def predict_logits(model: nn.Module, images: Tensor, *, divisor: int = 32) -> Tensor:
    """Return logits of the size of ``images``, whatever sizes the model takes and gives.

    Images are padded at the right and at the bottom to a multiple of ``divisor`` by repeating their border,
    never squashed; logits smaller than the padded input are resized to it (bilinear), and the padding is
    cut off. Gradient mode and the training flags are the caller's.

    Args:
        model: Returns logits (B, C, h, w), a dict with them under "out", or a sequence that starts with them.
        images: Normalised images (B, 3, H, W).
        divisor: The model takes heights and widths that are multiples of this.

    Returns:
        Logits (B, C, H, W).

    Raises:
        TypeError: The model's output is none of the above.
    """
    height, width = images.shape[-2:]
    padded = pad_images(images, divisor)
    logits = _maps_of(model(padded))
    if logits.shape[-2:] != padded.shape[-2:]:
        logits = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
    return logits[..., :height, :width]


def pad_images(images: Tensor, divisor: int = 32) -> Tensor:
    """Return images (B, 3, H, W), padded at the right and at the bottom to multiples of ``divisor``."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % divisor, 0, -height % divisor), mode="replicate")


def evaluate_model(
    model: nn.Module,
    loader: Iterable[Any],
    metric: SegmentationMetric,
    device: torch.device | str,
    *,
    predict: Predict = predict_logits,
) -> SegmentationResult:
    """Measure ``model`` on every batch of ``loader``.

    Runs in eval mode and without gradients; afterwards, on exceptions too, each module has its own training
    flag again. Of a dataset-aware model, select the dataset first (`dabnn.use_dataset`).

    Args:
        model: A segmentation model on ``device``; see `predict_logits` for its output.
        loader: Yields dicts with "image" and "mask", or pairs of them: images (B, 3, H, W) and class ids
            (B, H, W).
        metric: Reset, moved to ``device`` and filled.
        device: Where the batches are moved to.
        predict: How logits come from images, such as `predict_windows` or `predict_scales` with their
            options bound.

    Returns:
        The result over the whole loader.

    Raises:
        DataError: The loader is empty, a batch is malformed, or a label is outside the metric's classes.
    """
    metric.reset()
    metric.to(device)
    with eval_mode(model), torch.inference_mode():
        for batch in loader:
            images, target = (part(batch).to(device, non_blocking=True) for part in (inputs_of, target_of))
            metric.update(predict(model, images), target)
    return metric.compute()


def best_device() -> torch.device:
    """Return the accelerator of this machine, or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _maps_of(output: Any) -> Tensor:
    output = logits_of(output)
    if not isinstance(output, Tensor) or output.ndim != 4:
        kind = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            "a segmentation model must return logits (B, C, H, W), a dict with them under 'out', or a "
            f"sequence that starts with them, but this output is {kind}: wrap the model."
        )
    return output
