"""Draw toy street scenes once into folders, so that several trainings need not draw them again and again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from dabnn.data import SegmentationDataset
from dabnn.storage.atomic import folder_written_atomically

DIGITS = 4


def write_folder(splits: Mapping[str, SegmentationDataset], root: Path) -> None:
    """Write the splits of one dataset in the layout of `dabnn.data.FolderDataset`, without any loss.

    A finished folder is left alone; one that is not finished never bears its name.

    Args:
        splits: The dataset's samples by split name; all have the same classes.
        root: The folder to write.
    """
    if root.exists():
        return
    with folder_written_atomically(root, ()) as folder:
        for split, dataset in splits.items():
            _write_split(dataset, folder / "images" / split, folder / "labels" / split)
            content = {
                "classes": dataset.classes,
                "palette": dataset.palette,
                "ignore_index": dataset.ignore_index,
            }
            (folder / "classes.json").write_text(json.dumps(content, indent=1))


def _write_split(dataset: SegmentationDataset, images: Path, labels: Path) -> None:
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index in range(len(dataset)):
        sample = dataset[index]
        name = f"{index:0{DIGITS}d}.png"
        Image.fromarray(np.ascontiguousarray(sample["image"].permute(1, 2, 0).numpy())).save(images / name)
        label = Image.fromarray(sample["mask"].numpy())
        # All 256 colours: Pillow would store fewer with fewer bits, and cut the ignore index.
        colors = [*dataset.palette, *[(0, 0, 0)] * (256 - len(dataset.palette))]
        label.putpalette([channel for color in colors for channel in color])
        label.save(labels / name)
