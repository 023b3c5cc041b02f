"""Datasets, label spaces, augmentation and loaders for semantic segmentation."""

from __future__ import annotations

from dabnn.data.base import Color, Sample, SegmentationDataset
from dabnn.data.check import DatasetReport, check_dataset
from dabnn.data.labels.derived import JoinedDataset, RelabelledDataset
from dabnn.data.labels.maps import LabelMap, list_maps, load_map, read_map, unite
from dabnn.data.labels.spaces import LabelSpace, find_space, list_spaces, load_space
from dabnn.data.loader import Batch, SeededLoader
from dabnn.data.readers.bdd100k import BDD100K
from dabnn.data.readers.camvid import CamVid
from dabnn.data.readers.cityscapes import Cityscapes
from dabnn.data.readers.folder import FolderDataset
from dabnn.data.readers.idd import IDD, IDDLite
from dabnn.data.readers.kitti import KITTI
from dabnn.data.readers.pairs import PairDataset
from dabnn.data.readers.pascal_context import PascalContext
from dabnn.data.readers.registry import READERS, open_dataset
from dabnn.data.toy import TOY_DATASETS, ToyStreets
from dabnn.data.transforms import RandomScale, eval_transform, train_transform

__all__ = [
    "BDD100K",
    "IDD",
    "KITTI",
    "READERS",
    "TOY_DATASETS",
    "Batch",
    "CamVid",
    "Cityscapes",
    "Color",
    "DatasetReport",
    "FolderDataset",
    "IDDLite",
    "JoinedDataset",
    "LabelMap",
    "LabelSpace",
    "PairDataset",
    "PascalContext",
    "RandomScale",
    "RelabelledDataset",
    "Sample",
    "SeededLoader",
    "SegmentationDataset",
    "ToyStreets",
    "check_dataset",
    "eval_transform",
    "find_space",
    "list_maps",
    "list_spaces",
    "load_map",
    "load_space",
    "open_dataset",
    "read_map",
    "train_transform",
    "unite",
]
