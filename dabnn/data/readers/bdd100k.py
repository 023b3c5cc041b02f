"""BDD100K semantic segmentation (Yu et al., CVPR 2020) in its two official layouts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from dabnn.data.labels.spaces import load_space
from dabnn.data.readers.pairs import PairDataset, cut, find_pairs


class BDD100K(PairDataset):
    """The 19 classes of Cityscapes, 1280x720: 7000 training and 1000 validation images.

    The layout below ``root``, as of 2020::

        images/10k/<split>/<name>.jpg
        labels/sem_seg/masks/<split>/<name>.png

    or as of 2018::

        seg/images/<split>/<name>.jpg
        seg/labels/<split>/<name>_train_id.png

    Args:
        root: Folder with one of these layouts.
        split: "train" or "val", or a part of it such as "train[:80%]".
        name: Dataset name for `dabnn.use_dataset`.

    Raises:
        DataError: The data or the split is not there, or an image has no label or the other way round.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    withheld: ClassVar[tuple[str, ...]] = ("test",)
    official: ClassVar[Mapping[str, int]] = {"train": 7000, "val": 1000}
    licence: ClassVar[str] = "education, research and not-for-profit use (BDD100K licence)"
    steps: ClassVar[tuple[str, ...]] = (
        "register at http://bdd-data.berkeley.edu",
        'download "10K Images" and "Segmentation"',
        "unpack both into one folder; the root is the bdd100k in it",
    )

    def __init__(self, root: str | Path, split: str = "train", *, name: str = "bdd100k") -> None:
        root = Path(root)
        folder, low, high = self.part_of(split)
        images, labels = root / "images" / "10k", root / "labels" / "sem_seg" / "masks"
        label_files = "*.png"
        if not images.is_dir():
            images, labels = root / "seg" / "images", root / "seg" / "labels"
            label_files = "*_train_id.png"
        absent = partial(self.not_found, root)
        pairs = find_pairs(images / folder, ["*.jpg"], labels / folder, [label_files], absent=absent)
        if not pairs:
            raise self.not_found(root, f"no image images/10k/{folder}/*.jpg or seg/images/{folder}/*.jpg")
        super().__init__(name, cut(pairs, low, high), load_space("cityscapes"))
