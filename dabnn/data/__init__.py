"""Datasets, augmentation and loaders for semantic segmentation."""

from __future__ import annotations

from dabnn.data.base import Color, Sample, SegmentationDataset
from dabnn.data.folder import FolderDataset
from dabnn.data.loader import Batch, SeededLoader
from dabnn.data.toy import TOY_DATASETS, ToyStreets
from dabnn.data.transforms import RandomScale, eval_transform, train_transform

__all__ = [
    "TOY_DATASETS",
    "Batch",
    "Color",
    "FolderDataset",
    "RandomScale",
    "Sample",
    "SeededLoader",
    "SegmentationDataset",
    "ToyStreets",
    "eval_transform",
    "train_transform",
]
