"""PASCAL-Context (Mottaghi et al., CVPR 2014) with its 59 most frequent classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from dabnn.data.labels.spaces import load_space
from dabnn.data.readers.pairs import PairDataset, cut
from dabnn.errors import DataError


class PascalContext(PairDataset):
    """59 classes, about 500x375: 4998 training and 5105 validation images of everyday scenes.

    The annotations come as one file for all images, from which the converter of mmsegmentation writes one
    label map for each into the folders of PASCAL VOC 2010; of 4996 and 5104 images, since that file lacks
    three. Its ids are the alphabetical order of the 59 names (mmsegmentation issues 1940 and 3021), which is
    the order of the classes here; label maps in that of the authors' list (aeroplane, bicycle, bird, ...) do
    not fit. The layout below ``root``::

        JPEGImages/<name>.jpg
        SegmentationClassContext/<name>.png        (0 is background, 1 to 59 the classes)
        ImageSets/SegmentationContext/<split>.txt  (one name a line)

    Args:
        root: Folder with the layout above, VOCdevkit/VOC2010.
        split: "train" or "val", or a part of it such as "train[:80%]".
        name: Dataset name for `dabnn.use_dataset`.

    Raises:
        DataError: The data or the split is not there, or a listed file is missing.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    official: ClassVar[Mapping[str, int]] = {"train": 4998, "val": 5105}
    licence: ClassVar[str] = "the terms of PASCAL VOC and of Flickr, where its images are from"
    steps: ClassVar[tuple[str, ...]] = (
        "download VOCtrainval_03-May-2010.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2010",
        "download trainval_merged.json from https://codalabuser.blob.core.windows.net/public/trainval_merged.json",
        "write label maps with tools/dataset_converters/pascal_context.py of mmsegmentation",
    )

    def __init__(self, root: str | Path, split: str = "train", *, name: str = "pascal_context") -> None:
        root = Path(root)
        folder, low, high = self.part_of(split)
        listed = root / "ImageSets" / "SegmentationContext" / f"{folder}.txt"
        if not listed.is_file():
            raise self.not_found(root, f"no list ImageSets/SegmentationContext/{folder}.txt")
        names = listed.read_text().split()
        pairs = [
            (root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClassContext" / f"{name}.png")
            for name in sorted(names)
        ]
        missing = [path for pair in pairs for path in pair if not path.is_file()]
        for number, folder_name in enumerate(("JPEGImages", "SegmentationClassContext")):
            if pairs and not any(pair[number].is_file() for pair in pairs):
                raise self.not_found(root, f"no file in {folder_name} that {listed.name} names")
        if missing:
            raise DataError(f"{listed} names {len(missing)} files that are not there, first {missing[0]}")
        super().__init__(name, cut(pairs, low, high), load_space("pascal_context"))
