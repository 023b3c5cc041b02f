"""Cityscapes (Cordts et al., CVPR 2016) in its official layout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from dabnn.data.labels.spaces import load_space
from dabnn.data.readers.pairs import PairDataset, cut, find_pairs


class Cityscapes(PairDataset):
    """19 classes, 2048x1024: 2975 training and 500 validation images with fine labels.

    The layout below ``root``::

        leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png
        gtFine/<split>/<city>/<frame>_gtFine_labelIds.png

    Where a split has no labelIds at all, the ``*_gtFine_labelTrainIds.png`` of cityscapesScripts are read.

    Args:
        root: Folder with the layout above.
        split: "train" or "val", or a part of it such as "train[:80%]".
        name: Dataset name for `dabnn.use_dataset`.

    Raises:
        DataError: The data or the split is not there, or an image has no label or the other way round.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    withheld: ClassVar[tuple[str, ...]] = ("test",)
    official: ClassVar[Mapping[str, int]] = {"train": 2975, "val": 500}
    licence: ClassVar[str] = (
        "non-commercial research and teaching, no redistribution (Cityscapes terms of use)"
    )
    steps: ClassVar[tuple[str, ...]] = (
        "register at https://www.cityscapes-dataset.com",
        "download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip",
        "unpack both into one folder, which is the root",
    )

    def __init__(self, root: str | Path, split: str = "train", *, name: str = "cityscapes") -> None:
        folder, low, high = self.part_of(split)
        images, targets = Path(root) / "leftImg8bit" / folder, Path(root) / "gtFine" / folder
        by_id, by_train_id = "*/*_gtFine_labelIds.png", "*/*_gtFine_labelTrainIds.png"
        train_ids = any(targets.glob(by_train_id)) and not any(targets.glob(by_id))
        pairs = find_pairs(
            images,
            ["*/*_leftImg8bit.png"],
            targets,
            [by_train_id if train_ids else by_id],
            absent=partial(self.not_found, Path(root)),
        )
        if not pairs:
            raise self.not_found(Path(root), f"no image leftImg8bit/{folder}/<city>/*_leftImg8bit.png")
        space = load_space("cityscapes" if train_ids else "cityscapes_label_ids")
        super().__init__(name, cut(pairs, low, high), space)
