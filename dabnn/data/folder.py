"""Read a segmentation dataset from a plain folder of images and label maps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.tv_tensors import Image, Mask

from dabnn.data.base import Color, Sample, SegmentationDataset
from dabnn.data.images import opened, read_image
from dabnn.errors import DataError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_MAX_NAMED = 5


class FolderDataset(SegmentationDataset):
    """Images and label maps in folders, one sub-folder a split.

    The layout below ``root`` is::

        images/<split>/<stem>.jpg    RGB image (.jpg, .jpeg or .png)
        labels/<split>/<stem>.png    8-bit PNG, palette or grey: pixel value = class id
        classes.json                 {"classes": [...], "palette": [[r, g, b], ...], "ignore_index": 255}

    The folder is checked when the dataset is made: every image has a label map and the other way round.
    Each pair is checked when it is read: both files decode, sizes agree, ids are known.
    Samples are sorted by stem. Pixels with the ``ignore_index`` of classes.json become 255.

    Args:
        root: Folder with the layout above.
        split: Name of a sub-folder of ``images`` and ``labels``, such as "train", or a part of it in the
            order of the stems: "train[:80%]", "train[80%:]", "train[10%:20%]".
        name: Dataset name for `dabnn.use_dataset`; the name of ``root`` if left out.

    Raises:
        DataError: The folder does not have this layout, or (on reading) a pair of files is broken.
    """

    def __init__(self, root: str | Path, split: str, *, name: str | None = None) -> None:
        self.root = Path(root)
        self.split = split
        self.name = name if name is not None else self.root.resolve().name
        self.classes, self.palette, self._stored_ignore = _read_classes(self.root / "classes.json")
        folder, low, high = _parse_split(split)
        pairs = _find_pairs(self.root, folder)
        self.pairs = pairs[len(pairs) * low // 100 : len(pairs) * high // 100]

    def __len__(self) -> int:
        """Return the number of image and label pairs of the split."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return pair ``index``: ``image`` (3, H, W) uint8 RGB and ``mask`` (H, W) uint8 class ids.

        Raises:
            DataError: A file is truncated, the sizes differ, or a label id is no class; names the file.
            IndexError: ``index`` is negative or too large.
        """
        if not 0 <= index < len(self.pairs):
            raise IndexError(f"dataset '{self.name}' has samples 0 to {len(self) - 1}, not {index}")
        image_path, label_path = self.pairs[index]
        image = torch.from_numpy(read_image(image_path)).permute(2, 0, 1).contiguous()
        mask = self._read_label(label_path)
        if image.shape[-2:] != mask.shape:
            raise DataError(
                f"{label_path} is {_size(mask)} but its image {image_path} is {_size(image)} "
                "(width x height): store both at one size (resize label maps with nearest)."
            )
        return {"image": Image(image), "mask": Mask(mask)}

    def _read_label(self, path: Path) -> torch.Tensor:
        with opened(path) as label:
            # Pillow stretches a grey PNG of 1, 2 or 4 bits to 0..255, which would change its ids.
            if label.mode != "P" and (label.mode != "L" or label.tile[0][3] != "L"):
                raise DataError(f"{path} is no 8-bit palette or grey PNG: save it with one class id a pixel.")
            mask = torch.from_numpy(np.array(label))
            ids = np.flatnonzero(label.histogram())
        unknown = ids[(ids >= len(self.classes)) & (ids != self._stored_ignore)]
        if unknown.size:
            raise DataError(
                f"{path} has label ids {unknown.tolist()}, outside the {len(self.classes)} classes "
                f"(0 to {len(self.classes) - 1}) of dataset '{self.name}': map them to a class or to the "
                f"ignore index {self._stored_ignore}, or complete classes.json."
            )
        if self._stored_ignore != self.ignore_index:
            mask[mask == self._stored_ignore] = self.ignore_index
        return mask


def _parse_split(split: str) -> tuple[str, int, int]:
    """Return the sub-folder and the range of a split, in percent of its samples."""
    match = re.fullmatch(r"([^\[]+)(?:\[(?:(\d+)%)?:(?:(\d+)%)?\])?", split)
    low, high = (int(match[2] or 0), int(match[3] or 100)) if match else (0, 0)
    if match is None or not low < high <= 100:
        raise DataError(f"split {split!r} must be a sub-folder or a part of one, such as 'train[:80%]'")
    return match[1], low, high


def _size(image: torch.Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"


def _find_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    available = sorted(path.name for path in (root / "images").glob("*") if path.is_dir())
    if split not in available:
        raise DataError(
            f"{root / 'images'} has no split '{split}': available are {', '.join(available) or 'none'}; "
            "expected images/<split>/ and labels/<split>/."
        )
    images = _by_stem(root / "images" / split, _IMAGE_SUFFIXES)
    labels = _by_stem(root / "labels" / split, (".png",))
    if not images:
        raise DataError(f"{root / 'images' / split} holds no .jpg, .jpeg or .png file: put the images there.")
    if missing := sorted(images.keys() - labels.keys()):
        raise DataError(
            f"images without a label in {root / 'labels' / split}: "
            f"{_named([images[stem].name for stem in missing])}: add <stem>.png there or remove the images."
        )
    if missing := sorted(labels.keys() - images.keys()):
        raise DataError(
            f"labels without an image in {root / 'images' / split}: "
            f"{_named([labels[stem].name for stem in missing])}: add the images or remove the labels."
        )
    return [(images[stem], labels[stem]) for stem in sorted(images)]


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in files:
            raise DataError(
                f"{files[path.stem].name} and {path.name} in {folder} are one sample by name: remove one."
            )
        files[path.stem] = path
    return files


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _read_classes(path: Path) -> tuple[tuple[str, ...], tuple[Color, ...], int]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        classes, palette, ignore_index = content["classes"], content["palette"], content["ignore_index"]
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist: a dataset folder has images/, labels/, classes.json."
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} is not a JSON object with the keys classes, palette and ignore_index ({error!r})."
        ) from error
    if problem := _problem_with(classes, palette, ignore_index):
        raise DataError(f"{path}: {problem}.")
    return tuple(classes), tuple((red, green, blue) for red, green, blue in palette), ignore_index


def _problem_with(classes: Any, palette: Any, ignore_index: Any) -> str | None:
    names = classes if isinstance(classes, list) else []
    colors = palette if isinstance(palette, list) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        return "'classes' must be a list of names"
    if len(set(names)) < len(names):
        return "'classes' has a name twice"
    if len(colors) != len(names) or not all(_is_color(color) for color in colors):
        return f"'palette' must give [red, green, blue] in 0..255 for each of the {len(names)} classes"
    if not _is_byte(ignore_index) or ignore_index < len(names):
        return f"'ignore_index' must be in {len(names)}..255, outside the class ids"
    return None


def _is_color(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_byte(channel) for channel in value)


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255
