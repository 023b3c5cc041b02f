"""Batches that hold images of several datasets, each divided into one batch per dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dabnn.branches.mixed import positions_by_dataset
from dabnn.errors import DataError, UnknownDatasetError
from dabnn.selection import DatasetSelection
from dabnn.training.batch import Draw
from dabnn.training.loaders import AlternatingLoaders, checked_weights

KEY = "dataset"
STREAM = "mixed batches"


class MixedLoader(AlternatingLoaders):
    """One loader of mixed batches; a DAT step is one of them.

    A batch is a mapping with "image", "mask" and "dataset": the name or index of the dataset of each image,
    or an integer tensor of indices. The loss of a dataset is the mean over its images in the batch; a dataset
    that is not in a batch is not changed by that step.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        names: Sequence[str],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Check the arguments; no batch is read yet.

        Args:
            loader: Any iterable of mixed batches.
            names: The datasets of the model, in branch order.
            weights: Loss weights w_i of Eq. 3, by dataset; default 1.

        Raises:
            ConfigError: If a weight is negative, not a number, or of an unknown dataset.
        """
        super().__init__({STREAM: loader})
        self.names = tuple(names)
        self.weights = checked_weights(names, weights)

    def draw(self) -> list[Draw]:
        """Return the parts of the next batch, in branch order of their datasets."""
        parts = split_mixed(self.streams[STREAM].next(), self.names)
        return [Draw(name, part, self.weights[name]) for name, part in parts.items()]


def split_mixed(batch: Any, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the part of each dataset that is present, in the order of ``names``.

    Args:
        batch: Mapping with "dataset"; tensors and lists with an entry per image are divided, the rest kept.
        names: The datasets; an id is one of them, or an index into them.

    Raises:
        DataError: If the batch has no "dataset", or an id is none of the datasets.
    """
    if not isinstance(batch, Mapping) or KEY not in batch:
        raise DataError(
            f"a mixed batch is a mapping with {KEY!r}, the dataset of each image, besides its image"
        )
    try:
        positions = positions_by_dataset(batch[KEY], DatasetSelection(names))
    except UnknownDatasetError as error:
        raise DataError(f"a mixed batch names an {error}") from error
    total = len(batch[KEY])
    return {
        name: {key: _part(key, value, chosen, total) for key, value in batch.items() if key != KEY}
        for name, chosen in positions.items()
    }


def _part(key: str, value: Any, positions: list[int], total: int) -> Any:
    if isinstance(value, Tensor | list | tuple) and len(value) != total:
        raise DataError(f"a mixed batch has {total} dataset ids, but {len(value)} entries under {key!r}")
    if isinstance(value, Tensor):
        return value[torch.tensor(positions, device=value.device)]
    return [value[k] for k in positions] if isinstance(value, list | tuple) else value
