"""KITTI semantics (Alhaija et al., IJCV 2018) in its official layout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from dabnn.data.labels.spaces import load_space
from dabnn.data.readers.pairs import PairDataset, cut, find_pairs


class KITTI(PairDataset):
    """The 19 classes of Cityscapes, 1242x375: 200 images with labels, all in one split.

    The layout below ``root``::

        training/image_2/<frame>.png
        training/semantic/<frame>.png

    Args:
        root: Folder with the layout above.
        split: "train", the only one with labels, or a part of it such as "train[:80%]".
        name: Dataset name for `dabnn.use_dataset`.

    Raises:
        DataError: The data or the split is not there, or an image has no label or the other way round.
    """

    splits: ClassVar[tuple[str, ...]] = ("train",)
    withheld: ClassVar[tuple[str, ...]] = ("test",)
    official: ClassVar[Mapping[str, int]] = {"train": 200}
    licence: ClassVar[str] = "CC BY-NC-SA 3.0"
    steps: ClassVar[tuple[str, ...]] = (
        "register at https://www.cvlibs.net/datasets/kitti",
        "download data_semantics.zip of the semantic segmentation benchmark",
        "unpack it into a folder, which is the root",
    )

    def __init__(self, root: str | Path, split: str = "train", *, name: str = "kitti") -> None:
        _, low, high = self.part_of(split)
        images, labels = Path(root) / "training" / "image_2", Path(root) / "training" / "semantic"
        absent = partial(self.not_found, Path(root))
        pairs = find_pairs(images, ["*.png"], labels, ["*.png"], absent=absent)
        if not pairs:
            raise self.not_found(Path(root), "no image training/image_2/*.png")
        super().__init__(name, cut(pairs, low, high), load_space("cityscapes_label_ids"))
