"""Batches that hold images of several datasets, each divided into one batch per dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dabnn.errors import ConfigError, DataError
from dabnn.training.batch import Draw
from dabnn.training.loaders import AlternatingLoaders

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
        ratios: Mapping[str, int] | None = None,
    ) -> None:
        """Check the arguments; no batch is read yet.

        Args:
            loader: Any iterable of mixed batches.
            names: The datasets of the model, in branch order.
            weights: Loss weights w_i of Eq. 3, by dataset; default 1.
            ratios: Not possible here: the loader decides what a batch holds.

        Raises:
            ConfigError: If a weight is negative, not a number, or of an unknown dataset, or ratios are given.
        """
        if ratios:
            raise ConfigError(
                "ratios are for a loader per dataset; a mixed loader decides what a batch holds"
            )
        super().__init__({STREAM: loader})
        self.names = tuple(names)
        self.weights = AlternatingLoaders(dict.fromkeys(names, ()), weights).weights

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
    ids = batch[KEY].tolist() if isinstance(batch[KEY], Tensor) else list(batch[KEY])
    known = {key: index for index, name in enumerate(names) for key in (name, index)}
    if unknown := [dataset for dataset in ids if dataset not in known]:
        raise DataError(f"a mixed batch names the dataset {unknown[0]!r}; the model knows {list(names)}")
    indices = [known[dataset] for dataset in ids]
    positions = {index: [k for k, i in enumerate(indices) if i == index] for index in sorted(set(indices))}
    return {
        names[index]: {key: _part(key, value, chosen, len(ids)) for key, value in batch.items() if key != KEY}
        for index, chosen in positions.items()
    }


def _part(key: str, value: Any, positions: list[int], total: int) -> Any:
    if isinstance(value, Tensor | list | tuple) and len(value) != total:
        raise DataError(f"a mixed batch has {total} dataset ids, but {len(value)} entries under {key!r}")
    if isinstance(value, Tensor):
        return value[torch.tensor(positions, device=value.device)]
    return [value[k] for k in positions] if isinstance(value, list | tuple) else value
