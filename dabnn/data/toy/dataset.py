"""The toy street scenes as a dataset."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torchvision.tv_tensors import Image, Mask

from dabnn.data.base import Sample, SegmentationDataset
from dabnn.data.toy.cities import CITIES
from dabnn.data.toy.render import render
from dabnn.data.toy.scene import Scene
from dabnn.data.toy.sensor import expose
from dabnn.data.toy.style import Category
from dabnn.errors import DataError

TOY_DATASETS: tuple[str, ...] = tuple(CITIES)
"""Names of the toy datasets."""
SPLITS = ("train", "val")
SMALLEST = 16
"""Smallest image height and width in pixels."""


class ToyStreets(SegmentationDataset):
    """Procedural street scenes of one made-up city, drawn on the fly.

    The cities share what streets are made of and differ in camera, palette, light, weather, sensor,
    class frequency and label space, as real driving datasets do; see `dabnn.data.toy.cities`. Sample i
    is a function of (name, split, seed, i) alone: no file, no global random state. Splits and seeds share
    no scene. Another size shows the same scenes at another resolution.

    Attributes:
        name: The city.
        classes: Its class names.
        palette: One RGB colour per class.
        ignore_index: Mask value of what is not labelled.
        split: "train" or "val".
        size: Height and width of the images in pixels.
        seed: Seed of the scenes.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        *,
        size: tuple[int, int] = (64, 128),
        length: int | None = None,
        seed: int = 0,
    ) -> None:
        """Choose the scenes.

        Args:
            name: One of `TOY_DATASETS`.
            split: "train" or "val".
            size: Height and width of the images in pixels, each at least 16.
            length: Number of samples; the city's own number for the split if None.
            seed: A seed >= 0; every seed gives other scenes of the same city.

        Raises:
            DataError: If an argument is not one of the allowed values.
        """
        _check(name, split, size, length, seed)
        city = CITIES[name]
        self.name = name
        self.split = split
        self.size = (int(size[0]), int(size[1]))
        self.seed = seed
        self.classes = tuple(city.labels.classes)
        self.palette = tuple(city.labels.classes.values())
        self._length = city.lengths[split] if length is None else length

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """Return sample ``index``: a uint8 image (3, H, W) and a uint8 mask (H, W)."""
        if not 0 <= index < self._length:
            raise IndexError(f"index {index} is out of range for {self.name!r} with {self._length} samples")
        city = CITIES[self.name]
        scene = Scene.sample(self._rng(index), city.style)
        color, category = render(scene, self.size)
        mask = _class_ids(self.name)[category]
        image = expose(scene, color)
        return {"image": Image(torch.from_numpy(image)), "mask": Mask(torch.from_numpy(mask))}

    def _rng(self, index: int) -> random.Random:
        """Return the generator of sample ``index``, independent of every other sample's."""
        key = (TOY_DATASETS.index(self.name), SPLITS.index(self.split), int(index))
        words = np.random.SeedSequence(self.seed, spawn_key=key).generate_state(4)
        return random.Random(int.from_bytes(words.astype("<u4").tobytes(), "little"))


@cache
def _class_ids(name: str) -> npt.NDArray[np.uint8]:
    """Return the mask value of every category."""
    labels = CITIES[name].labels
    order = list(labels.classes)
    ids = np.full(len(Category), ToyStreets.ignore_index, dtype=np.uint8)
    for category, label in labels.labels.items():
        ids[category] = order.index(label)
    return ids


def _check(name: str, split: str, size: tuple[int, int], length: int | None, seed: int) -> None:
    if name not in TOY_DATASETS:
        raise DataError(f"unknown toy dataset {name!r}; choose one of {', '.join(TOY_DATASETS)}")
    if split not in SPLITS:
        raise DataError(f"toy dataset {name!r} has no split {split!r}; choose one of {', '.join(SPLITS)}")
    if not isinstance(size, Sequence) or len(size) != 2 or any(side % 1 or side < SMALLEST for side in size):
        raise DataError(f"size must be (height, width) in whole pixels, each >= {SMALLEST}, got {size!r}")
    if length is not None and length < 1:
        raise DataError(f"length must be at least 1, or None for the city's own, got {length}")
    if seed < 0:
        raise DataError(f"seed must be >= 0, got {seed}")
