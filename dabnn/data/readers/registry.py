"""The datasets that dabnn reads, by name."""

from __future__ import annotations

from pathlib import Path

from dabnn.data.readers.bdd100k import BDD100K
from dabnn.data.readers.camvid import CamVid
from dabnn.data.readers.cityscapes import Cityscapes
from dabnn.data.readers.folder import FolderDataset, splits_below
from dabnn.data.readers.idd import IDD, IDDLite
from dabnn.data.readers.kitti import KITTI
from dabnn.data.readers.pairs import PairDataset
from dabnn.data.readers.pascal_context import PascalContext
from dabnn.errors import DataError

READERS: dict[str, type[PairDataset]] = {
    "folder": FolderDataset,
    "cityscapes": Cityscapes,
    "bdd100k": BDD100K,
    "camvid": CamVid,
    "kitti": KITTI,
    "idd": IDD,
    "idd_lite": IDDLite,
    "pascal_context": PascalContext,
}


def open_dataset(kind: str, root: str | Path, split: str, *, name: str | None = None) -> PairDataset:
    """Return one split of a dataset.

    Args:
        kind: Name of a reader, a key of `READERS`.
        root: Folder of the data, see the class of the reader.
        split: Name of the split, or a part of it such as "train[:80%]".
        name: Dataset name for `dabnn.use_dataset`; the reader's own if left out.

    Raises:
        DataError: There is no such reader, or the data is not there or incomplete.
    """
    options = {} if name is None else {"name": name}
    return _reader(kind)(root, split, **options)  # type: ignore[arg-type]


def splits_of(kind: str, root: str | Path) -> tuple[str, ...]:
    """Return the splits of a dataset that have labels.

    Raises:
        DataError: There is no such reader, or ``root`` is no dataset folder.
    """
    return _reader(kind).splits or splits_below(Path(root))


def _reader(kind: str) -> type[PairDataset]:
    if kind not in READERS:
        raise DataError(f"unknown dataset {kind!r}; there are readers for {', '.join(READERS)}")
    return READERS[kind]
