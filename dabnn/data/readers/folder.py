"""Read a segmentation dataset from a plain folder of images and label maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dabnn.data.labels.spaces import LabelSpace
from dabnn.data.readers.pairs import PairDataset, Pairs, cut, find_pairs, split_part
from dabnn.errors import DataError

_LABELS = ("*.[pP][nN][gG]",)
_IMAGES = ("*.[jJ][pP][gG]", "*.[jJ][pP][eE][gG]", *_LABELS)


class FolderDataset(PairDataset):
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
        space = _read_classes(self.root / "classes.json")
        folder, low, high = split_part(split)
        pairs = cut(_find_pairs(self.root, folder), low, high)
        super().__init__(name if name is not None else self.root.resolve().name, pairs, space)


def splits_below(root: Path) -> tuple[str, ...]:
    """Return the splits of a dataset folder, the sub-folders of its images.

    Raises:
        DataError: There is none.
    """
    splits = sorted(path.name for path in (root / "images").glob("*") if path.is_dir())
    if not splits:
        raise DataError(
            f"{root} has no folder images/<split>/: a dataset folder has images/<split>/, labels/<split>/ "
            "and classes.json."
        )
    return tuple(splits)


def _find_pairs(root: Path, split: str) -> Pairs:
    available = splits_below(root)
    if split not in available:
        raise DataError(
            f"{root / 'images'} has no split '{split}': available are {', '.join(available)}; "
            "expected images/<split>/ and labels/<split>/."
        )
    images, labels = root / "images" / split, root / "labels" / split
    pairs = find_pairs(images, _IMAGES, labels, _LABELS)
    if not pairs:
        raise DataError(f"{images} holds no .jpg, .jpeg or .png file: put the images there.")
    return pairs


def _read_classes(path: Path) -> LabelSpace:
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
    colors = tuple((red, green, blue) for red, green, blue in palette)
    ids = {index: index for index in range(len(classes))}
    return LabelSpace(path.parent.name, tuple(classes), colors, ids, frozenset({ignore_index}))


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
