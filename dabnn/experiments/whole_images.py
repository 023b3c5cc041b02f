"""Give norms the statistics of whole images of a dataset, as evaluation sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dabnn import recalibrate_batch_norm
from dabnn.batch import inputs_of
from dabnn.errors import DataError
from dabnn.evaluation.inference import pad_images


def recalibrate_on(
    model: nn.Module,
    images: Iterable[Mapping[str, Any]],
    batch_size: int,
    *,
    branch: str | None = None,
    max_batches: int | None = None,
) -> None:
    """Set the running statistics of a model, in place, to those of whole images.

    Args:
        model: A converted model or, without ``branch``, a plain one.
        images: Batches of one image, in random order: neighbours in a video, as one batch, would be
            normalised with moments of their own.
        batch_size: Images a batch.
        branch: Whose norms; those of other datasets are left as they are.
        max_batches: Read only that many batches.
    """
    batches = same_size_batches(images, batch_size)
    recalibrate_batch_norm(model, batches, dataset=branch, max_batches=max_batches)


def same_size_batches(loader: Iterable[Mapping[str, Any]], count: int) -> Iterator[dict[str, Tensor]]:
    """Yield images, padded as in evaluation, in batches of one size; a single one that is left is dropped.

    Args:
        loader: Batches of one image.
        count: Images a batch, fewer in the last of each size.

    Raises:
        DataError: If no two images have one size, so that there is no batch.
    """
    waiting: dict[torch.Size, list[Tensor]] = {}
    full = False
    for batch in loader:
        padded = pad_images(inputs_of(batch))  # the model takes no other sizes
        images = waiting.setdefault(padded.shape, [])
        images.append(padded)
        if len(images) == count:
            yield {"image": torch.cat(images)}
            images.clear()
            full = True
    if not full and all(len(images) < 2 for images in waiting.values()):
        raise DataError(
            f"of {len(waiting)} images no two have one size, and statistics of a batch need two: resize them"
        )
    yield from ({"image": torch.cat(images)} for images in waiting.values() if len(images) > 1)
