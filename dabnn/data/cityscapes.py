"""Cityscapes (Cordts et al., CVPR 2016) in its official layout."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from dabnn.data.pairs import PairDataset, cut, find_pairs, split_part
from dabnn.data.spaces import load_space


class Cityscapes(PairDataset):
    """19 classes, 2048x1024: 2975 training and 500 validation images with fine labels.

    The layout below ``root``::

        leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png
        gtFine/<split>/<city>/<frame>_gtFine_labelIds.png

    Args:
        root: Folder with the layout above.
        split: "train" or "val", or a part of it such as "train[:80%]".
        labels: Which label files to read: "labelIds", as downloaded, or the "labelTrainIds" that
            cityscapesScripts makes.
        name: Dataset name for `dabnn.use_dataset`.

    Raises:
        DataError: The data is not there, or an image has no label or the other way round.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    licence: ClassVar[str] = (
        "non-commercial research and teaching, no redistribution (Cityscapes terms of use)"
    )
    steps: ClassVar[tuple[str, ...]] = (
        "register at https://www.cityscapes-dataset.com",
        "download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip",
        "unpack both into one folder, which is the root",
    )

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        labels: Literal["labelIds", "labelTrainIds"] = "labelIds",
        name: str = "cityscapes",
    ) -> None:
        folder, low, high = split_part(split)
        images, targets = Path(root) / "leftImg8bit" / folder, Path(root) / "gtFine" / folder
        pairs = find_pairs(images, ["*/*_leftImg8bit.png"], targets, [f"*/*_gtFine_{labels}.png"])
        if not pairs:
            raise self.not_found(Path(root), f"no image leftImg8bit/{folder}/<city>/*_leftImg8bit.png")
        space = load_space("cityscapes_label_ids" if labels == "labelIds" else "cityscapes")
        super().__init__(name, cut(pairs, low, high), space)
