"""Images that have a label file each: what all dataset readers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torchvision.tv_tensors import Image, Mask

from dabnn.data.base import Sample, SegmentationDataset
from dabnn.data.images import opened, read_image, size_of_image
from dabnn.data.labels.spaces import LabelSpace
from dabnn.errors import DataError, listed

Pairs = list[tuple[Path, Path]]
_MAX_NAMED = 5


class UnmatchedFilesError(DataError):
    """Images have no label, or labels no image.

    Attributes:
        pairs: How many images have a label.
        problems: One message for each file.
    """

    def __init__(
        self, images: Path, labels: Path, alone: Sequence[Path], unused: Sequence[Path], pairs: int
    ) -> None:
        """Say which files are alone.

        Args:
            images: Folder of the images.
            labels: Folder of the labels.
            alone: Images without a label.
            unused: Labels without an image.
            pairs: How many images have a label.
        """
        parts = []
        if alone:
            names = listed([file.name for file in alone], _MAX_NAMED)
            parts.append(
                f"images without a label in {labels}: {names}: add their labels there or remove the images."
            )
        if unused:
            names = listed([file.name for file in unused], _MAX_NAMED)
            parts.append(
                f"labels without an image in {images}: {names}: add the images or remove the labels."
            )
        super().__init__(" ".join(parts))
        self.pairs = pairs
        self.problems = [f"{file} has no label in {labels}" for file in alone]
        self.problems += [f"{file} has no image in {images}" for file in unused]


class PairDataset(SegmentationDataset):
    """Images and their label files, of which a subclass says where they are and what the values mean.

    Attributes:
        pairs: Image and label file of every sample.
        space: The label space.
        splits: The splits that have labels; of a folder dataset, whatever it has.
        withheld: The splits whose labels are not public.
        official: Number of images in each split as published, where that is well known.
        licence: Terms of the data.
        steps: How to get the data, one step a line.
    """

    splits: ClassVar[tuple[str, ...]] = ()
    withheld: ClassVar[tuple[str, ...]] = ()
    official: ClassVar[Mapping[str, int]] = {}
    licence: ClassVar[str] = ""
    steps: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, pairs: Sequence[tuple[Path, Path]], space: LabelSpace) -> None:
        """Hold the pairs; no file is read yet.

        Args:
            name: Dataset name for `dabnn.use_dataset`.
            pairs: Image and label file of every sample.
            space: Classes, and which values of the label files stand for them.
        """
        self.name = name
        self.pairs = list(pairs)
        self.space = space
        self.classes, self.palette = space.classes, space.palette
        self._table = space.table()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return pair ``index``: ``image`` (3, H, W) uint8 RGB and ``mask`` (H, W) uint8 class ids.

        Raises:
            DataError: A file is missing or damaged, the sizes differ, or a label value is unknown.
            IndexError: ``index`` is negative or too large.
        """
        if not 0 <= index < len(self.pairs):
            raise IndexError(f"dataset '{self.name}' has samples 0 to {len(self) - 1}, not {index}")
        image_path, label_path = self.pairs[index]
        image = torch.from_numpy(read_image(image_path)).permute(2, 0, 1).contiguous()
        mask = torch.from_numpy(self._class_ids(label_path))
        if image.shape[-2:] != mask.shape:
            raise DataError(
                f"{label_path} is {_size(mask)} but its image {image_path} is {_size(image)} "
                "(width x height): store both at one size (resize label maps with nearest)."
            )
        return {"image": Image(image), "mask": Mask(mask)}

    def image_size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image, from the header of its file."""
        return size_of_image(self.pairs[index][0])

    @classmethod
    def not_found(cls, root: Path, problem: str) -> DataError:
        """Return the error for data that is not there, with the steps to get it."""
        steps = "; ".join(f"{number}. {step}" for number, step in enumerate(cls.steps, 1))
        return DataError(f"{root}: {problem}. To get {cls.__name__}: {steps}. Terms: {cls.licence}")

    @classmethod
    def part_of(cls, split: str) -> tuple[str, int, int]:
        """Return what `split_part` does, of a split that the dataset has.

        Raises:
            DataError: There is no such split, or its labels are not public.
        """
        folder, low, high = split_part(split)
        if folder in cls.withheld:
            raise DataError(
                f"the labels of the split {folder!r} of {cls.__name__} are not public: measure on "
                f"{cls.splits[-1]!r}; for its benchmark, `dabnn predict --ids` writes predictions as files"
            )
        if folder not in cls.splits:
            raise DataError(
                f"{cls.__name__} has no split {folder!r}; it has {', '.join(cls.splits)}, and parts of them "
                f"such as '{cls.splits[0]}[:80%]'"
            )
        return folder, low, high

    def read_label(self, path: Path) -> npt.NDArray[np.uint8]:
        """Return the values (H, W) of a label file, not yet mapped to classes.

        Raises:
            DataError: The file is missing, damaged, or no 8-bit palette or grey picture.
        """
        with opened(path) as label:
            # Pillow stretches a grey PNG of 1, 2 or 4 bits to 0..255, which would change its ids.
            if label.mode != "P" and (label.mode != "L" or label.tile[0][3] != "L"):
                raise DataError(f"{path} is no 8-bit palette or grey PNG: save it with one class id a pixel.")
            return np.array(label)

    def _class_ids(self, path: Path) -> npt.NDArray[np.uint8]:
        values = self.read_label(path)
        ids = self._table[values]
        if ids.min(initial=0) < 0:
            unknown = np.unique(values[ids < 0]).tolist()
            raise DataError(
                f"{path} has label ids {unknown}, outside the {len(self.classes)} classes of dataset "
                f"'{self.name}': {self.space.expected()}; map the others to one of these."
            )
        return ids.astype(np.uint8)


def split_part(split: str) -> tuple[str, int, int]:
    """Return the split and the range, in percent of its samples, of "train" or "train[:80%]".

    Raises:
        DataError: It is neither.
    """
    match = re.fullmatch(r"([^\[]+)(?:\[(?:(\d+)%)?:(?:(\d+)%)?\])?", split)
    low, high = (int(match[2] or 0), int(match[3] or 100)) if match else (0, 0)
    if match is None or not low < high <= 100:
        raise DataError(f"split {split!r} must be a sub-folder or a part of one, such as 'train[:80%]'")
    return match[1], low, high


def cut(pairs: Pairs, low: int, high: int) -> Pairs:
    """Return the pairs between two percentages."""
    return pairs[len(pairs) * low // 100 : len(pairs) * high // 100]


def find_pairs(
    images: Path,
    image_files: Sequence[str],
    labels: Path,
    label_files: Sequence[str],
    *,
    ignore: Sequence[str] = (),
    absent: Callable[[str], DataError] | None = None,
) -> Pairs:
    """Return image and label file of every sample, sorted by name; an empty list if there are none.

    Files belong together if they have the same path below their folder, up to what their pattern adds to the
    name: ``a/1_image.jpg`` of "*/*_image.jpg" and ``a/1_label.png`` of "*/*_label.png".

    Args:
        images: Folder of the images.
        image_files: Patterns of the image files below it.
        labels: Folder of the label files.
        label_files: Patterns of the label files below it.
        ignore: Patterns of file names that are left alone, as hidden files are.
        absent: Makes the error for images without any label, or the other way round.

    Raises:
        UnmatchedFilesError: An image has no label or the other way round.
        DataError: Two files are one sample by name.
    """
    found = _files_by_key(images, image_files, ignore)
    masks = _files_by_key(labels, label_files, ignore)
    if absent is not None and found and not masks:
        raise absent(f"no label {label_files[0]} in {labels} for the {len(found)} images")
    if absent is not None and masks and not found:
        raise absent(f"no image {image_files[0]} in {images} for the {len(masks)} labels")
    alone = [found[key] for key in sorted(found.keys() - masks.keys())]
    unused = [masks[key] for key in sorted(masks.keys() - found.keys())]
    if alone or unused:
        raise UnmatchedFilesError(images, labels, alone, unused, len(found) - len(alone))
    return [(found[key], masks[key]) for key in sorted(found)]


def _files_by_key(folder: Path, patterns: Sequence[str], ignore: Sequence[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for pattern in patterns:
        ending = pattern.rpartition("*")[2].partition(".")[0]
        for path in folder.glob(pattern):
            if any(fnmatch(path.name, other) for other in (".*", *ignore)):
                continue
            key = str(path.relative_to(folder).with_suffix("")).removesuffix(ending)
            if key in files:
                raise DataError(
                    f"{files[key].name} and {path.name} in {path.parent} are one sample by name: remove one."
                )
            files[key] = path
    return files


def _size(image: torch.Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"
