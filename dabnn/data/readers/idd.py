"""The India Driving Dataset (Varma et al., WACV 2019) and its Lite version, in their official layouts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from dabnn.data.labels.spaces import load_space
from dabnn.data.readers.pairs import PairDataset, cut, find_pairs

TERMS = "non-commercial research and education (IDD terms)"


class IDD(PairDataset):
    """26 classes (level 3), about 1920x1080: 14027 training and 2036 validation images.

    These are parts I and II of IDD Segmentation; part I, the IDD of the paper, has 6993 and 981 of them. The
    layout below ``root``::

        leftImg8bit/<split>/<drive>/<frame>_leftImg8bit.jpg    (or .png)
        gtFine/<split>/<drive>/<frame>_gtFine_labellevel3Ids.png

    Args:
        root: Folder with the layout above.
        split: "train" or "val", or a part of it such as "train[:80%]".
        name: Dataset name for `dabnn.use_dataset`.

    Raises:
        DataError: The data or the split is not there, or an image has no label or the other way round.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    withheld: ClassVar[tuple[str, ...]] = ("test",)
    official: ClassVar[Mapping[str, int]] = {"train": 14027, "val": 2036}
    licence: ClassVar[str] = TERMS
    steps: ClassVar[tuple[str, ...]] = (
        "register at https://idd.insaan.iiit.ac.in",
        "download IDD Segmentation, parts I and II, and unpack both into one folder, which is the root",
        "make the label files with preperation/createLabels.py of github.com/AutoNUE/public-code, "
        "--id-type level3Id",
    )

    def __init__(self, root: str | Path, split: str = "train", *, name: str = "idd") -> None:
        folder, low, high = self.part_of(split)
        images, labels = Path(root) / "leftImg8bit" / folder, Path(root) / "gtFine" / folder
        image_files = ["*/*_leftImg8bit.jpg", "*/*_leftImg8bit.png"]
        label_files = ["*/*_gtFine_labellevel3Ids.png"]
        absent = partial(self.not_found, Path(root))
        pairs = find_pairs(images, image_files, labels, label_files, absent=absent)
        if not pairs:
            raise self.not_found(Path(root), f"no image leftImg8bit/{folder}/<drive>/*_leftImg8bit.jpg")
        super().__init__(name, cut(pairs, low, high), load_space("idd"))


class IDDLite(PairDataset):
    """7 classes (level 1), 320x227: 1403 training and 204 validation images.

    The layout below ``root``::

        leftImg8bit/<split>/<drive>/<frame>_image.jpg
        gtFine/<split>/<drive>/<frame>_label.png

    A ``<frame>_inst_label.png`` beside a label is not read.

    Args:
        root: Folder with the layout above, the idd20k_lite of the download.
        split: "train" or "val", or a part of it such as "train[:80%]".
        name: Dataset name for `dabnn.use_dataset`.

    Raises:
        DataError: The data or the split is not there, or an image has no label or the other way round.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    withheld: ClassVar[tuple[str, ...]] = ("test",)
    official: ClassVar[Mapping[str, int]] = {"train": 1403, "val": 204}
    licence: ClassVar[str] = TERMS
    steps: ClassVar[tuple[str, ...]] = (
        "register at https://idd.insaan.iiit.ac.in",
        "download IDD Lite and unpack it; the root is the folder idd20k_lite",
    )

    def __init__(self, root: str | Path, split: str = "train", *, name: str = "idd_lite") -> None:
        folder, low, high = self.part_of(split)
        images, labels = Path(root) / "leftImg8bit" / folder, Path(root) / "gtFine" / folder
        pairs = find_pairs(
            images,
            ["*/*_image.jpg"],
            labels,
            ["*/*_label.png"],
            ignore=["*_inst_label.png"],
            absent=partial(self.not_found, Path(root)),
        )
        if not pairs:
            raise self.not_found(Path(root), f"no image leftImg8bit/{folder}/<drive>/*_image.jpg")
        super().__init__(name, cut(pairs, low, high), load_space("idd_lite"))
