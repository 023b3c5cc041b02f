"""Look for broken, missing and mislabelled files before a training meets them."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dabnn.data.base import SegmentationDataset
from dabnn.errors import DataError


@dataclass(frozen=True)
class DatasetReport:
    """What was found in one split.

    Attributes:
        samples: Number of samples that can be read.
        sizes: Number of images by (height, width).
        pixels: Number of labelled pixels by class name.
        problems: One message for each sample that cannot be used.
    """

    samples: int
    sizes: dict[tuple[int, int], int]
    pixels: dict[str, int]
    problems: list[str]


def check_dataset(dataset: SegmentationDataset, *, threads: int = 4) -> DatasetReport:
    """Read every sample of a dataset.

    Args:
        dataset: Any dataset; its constructor has already matched images and labels.
        threads: How many samples are decoded side by side.
    """
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda index: _check_sample(dataset, index), range(len(dataset))))
    good = [item for item in found if not isinstance(item, str)]
    counts = sum((item[1] for item in good), np.zeros(256, dtype=np.int64))
    return DatasetReport(
        samples=len(good),
        sizes=dict(Counter(size for size, _ in good)),
        pixels={name: int(counts[index]) for index, name in enumerate(dataset.classes)},
        problems=[item for item in found if isinstance(item, str)],
    )


def _check_sample(dataset: SegmentationDataset, index: int) -> tuple[tuple[int, int], np.ndarray] | str:
    """Return size and number of pixels by class id (256,), or what is wrong."""
    try:
        sample = dataset[index]
    except DataError as error:
        return str(error)
    height, width = sample["image"].shape[-2:]
    return (height, width), np.bincount(sample["mask"].numpy().ravel(), minlength=256)
