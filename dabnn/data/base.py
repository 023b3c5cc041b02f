"""The one interface every segmentation dataset of dabnn has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypedDict

from torch.utils.data import Dataset
from torchvision.tv_tensors import Image, Mask

from dabnn.batch import IGNORE_INDEX

Color = tuple[int, int, int]


class Sample(TypedDict):
    """One labelled image: ``image`` (3, H, W) and ``mask`` (H, W) of class ids or the ignore index."""

    image: Image
    mask: Mask


class SegmentationDataset(Dataset[Sample], ABC):
    """A map-style dataset that knows its label space.

    ``dataset[i]`` is a raw sample: an RGB uint8 image in [0, 255] and a uint8 mask of the same size.
    Augmentation and normalisation happen in the loader (`dabnn.data.transforms`), so that one dataset
    serves training and evaluation.

    Attributes:
        name: Short identifier, the dataset name used by `dabnn.use_dataset`.
        classes: Class names; a mask value is an index into them.
        palette: One RGB colour in [0, 255] per class.
        ignore_index: Mask value of unlabelled pixels.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ignore_index: int = IGNORE_INDEX

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Return sample ``index``; negative indices are not supported."""

    def image_size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image; datasets that know them without reading it override this."""
        height, width = self[index]["image"].shape[-2:]
        return height, width
