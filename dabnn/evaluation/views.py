"""Predict an image from several views of it: windows, sizes, the mirror image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dabnn.evaluation.inference import Predict, predict_logits

PAPER_SCALES = (0.5, 0.75, 1.0, 1.25)
"""Those whose cost is 3.375 times that of one scale, as in the rows of Table 5 with a double dagger."""


def choose_views(
    scales: Sequence[float] = (1.0,), *, flip: bool = False, window: tuple[int, int] | None = None
) -> Predict:
    """Return how to predict an image from these views of it; a single plain one gives `predict_logits`.

    Args:
        scales: See `predict_scales`.
        flip: See `predict_scales`.
        window: Each view in windows of this height and width, see `predict_windows`; left out, as a whole.
    """
    view: Predict = predict_logits if window is None else partial(predict_windows, window=window)
    plain = list(scales) == [1] and not flip
    return view if plain else partial(predict_scales, scales=scales, flip=flip, predict=view)


def predict_windows(
    model: nn.Module, images: Tensor, *, window: tuple[int, int], overlap: float = 1 / 3, **options: Any
) -> Tensor:
    """Return logits of the size of ``images``, averaged over windows that overlap.

    Args:
        model: See `predict_logits`.
        images: Normalised images (B, 3, H, W).
        window: Height and width of a window; where an image is smaller, its own.
        overlap: Least share of a window that the next one covers too, in [0, 1).
        options: Passed to `predict_logits`.

    Returns:
        Logits (B, C, H, W).

    Raises:
        ValueError: The window or the overlap is out of range.
    """
    if min(window) < 1 or not 0 <= overlap < 1:
        raise ValueError(f"need a positive window and 0 <= overlap < 1, got {window} and {overlap}")
    rows, columns = (
        _starts(length, side, overlap) for length, side in zip(images.shape[-2:], window, strict=True)
    )
    total, count = torch.empty(0), images.new_zeros(1, 1, *images.shape[-2:])
    for top, left in product(rows, columns):
        part = (..., slice(top, top + window[0]), slice(left, left + window[1]))
        logits = predict_logits(model, images[part], **options)
        if not total.numel():  # the first window tells the number of classes
            total = logits.new_zeros(len(images), logits.shape[1], *images.shape[-2:])
        total[part] += logits
        count[part] += 1
    return total / count


def predict_scales(
    model: nn.Module,
    images: Tensor,
    *,
    scales: Sequence[float] = PAPER_SCALES,
    flip: bool = False,
    predict: Predict = predict_logits,
) -> Tensor:
    """Return log-probabilities of the size of ``images``, averaged over sizes and, perhaps, mirror images.

    Args:
        model: See `predict_logits`.
        images: Normalised images (B, 3, H, W).
        scales: Factors of the image size.
        flip: Average over the mirror image too.
        predict: How one view is predicted.

    Returns:
        Logarithm of the mean probability (B, C, H, W).

    Raises:
        ValueError: There is no scale, or one is not positive.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be positive and at least one, got {tuple(scales)}")
    views = list(product(scales, (False, True) if flip else (False,)))
    # One view after the other: all of them at once would not fit beside large images.
    logarithms = (_log_probabilities(model, images, scale, mirrored, predict) for scale, mirrored in views)
    return reduce(torch.logaddexp, logarithms) - math.log(len(views))


def _log_probabilities(
    model: nn.Module, images: Tensor, scale: float, mirrored: bool, predict: Predict
) -> Tensor:
    """Return the log-probabilities of one view, at the size of the images and not mirrored."""
    size = images.shape[-2:]
    scaled = [max(1, round(scale * length)) for length in size]
    view = images if scale == 1 else F.interpolate(images, scaled, mode="bilinear", antialias=True)
    logits = predict(model, view.flip(-1) if mirrored else view)
    logits = logits.flip(-1) if mirrored else logits
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return logits.log_softmax(1)


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Return where windows start, spread evenly so that the last one ends at the end."""
    if length <= window:
        return [0]
    stride = max(1, int(window * (1 - overlap)))
    count = -(-(length - window) // stride) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]
