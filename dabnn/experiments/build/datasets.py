"""Build the datasets of an experiment, in the label spaces that it asks for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dabnn.data import (
    READERS,
    JoinedDataset,
    LabelSpace,
    RelabelledDataset,
    SegmentationDataset,
    ToyStreets,
    load_map,
    load_space,
    open_dataset,
    read_map,
)
from dabnn.experiments.config import Config, DatasetConfig

SPACES = {kind: kind for kind in READERS if kind != "folder"} | dict.fromkeys(
    ("bdd100k", "kitti"), "cityscapes"
)
"""Label space of each reader, where it has one of its own."""


def data_directory(config: Config, override: str | Path | None = None) -> Path:
    """Return the folder of the datasets: ``override``, else ``$DABNN_DATA``, else the config's."""
    return Path(override or os.environ.get("DABNN_DATA") or config.data_dir)


def build_dataset(config: Config, name: str, *, train: bool, data_dir: Path) -> SegmentationDataset:
    """Return the training or evaluation split of a dataset, or a split that is only measured on."""
    entry = _entry(config, name)
    split = entry.train if train else entry.evaluate
    dataset: SegmentationDataset
    if entry.kind == "toy":
        dataset = ToyStreets(entry.root, split)
    else:
        dataset = open_dataset(entry.kind, data_dir / entry.root, split, name=name)
    if entry.relabel is None:
        return dataset
    return relabelled(dataset, _space_of_files(config, name), entry.relabel)


def build_training_split(
    config: Config, name: str, joined: Sequence[str], data_dir: Path
) -> SegmentationDataset:
    """Return the training split of a dataset, with those of others in its classes if any are joined to it."""
    own = build_dataset(config, name, train=True, data_dir=data_dir)
    others = [remapped(config, name, other, own, data_dir) for other in joined]
    return JoinedDataset([own, *others], name) if others else own


def remapped(
    config: Config, name: str, other: str, own: SegmentationDataset, data_dir: Path
) -> SegmentationDataset:
    """Return the training split of another dataset in the classes of ``own``, the one called ``name``."""
    dataset = build_dataset(config, other, train=True, data_dir=data_dir)
    file = config.datasets[name].maps.get(other)
    if file is None:
        return relabelled(dataset, space_of(config, other), space_of(config, name))
    ids = dict(enumerate(range(len(own.classes))))
    space = LabelSpace(name, own.classes, own.palette, ids, frozenset({own.ignore_index}))
    return RelabelledDataset(dataset, read_map(data_dir / file, dataset.classes, own.classes), space)


def relabelled(dataset: SegmentationDataset, source: str, target: str) -> SegmentationDataset:
    """Return a dataset in another of the label spaces that dabnn ships."""
    if source == target:
        return dataset
    return RelabelledDataset(dataset, load_map(source, target), load_space(target))


def space_of(config: Config, name: str) -> str:
    """Return the label space that a dataset is trained in."""
    return _entry(config, name).relabel or _space_of_files(config, name)


def _entry(config: Config, name: str) -> DatasetConfig:
    return config.datasets[name] if name in config.datasets else config.held_out[name]


def _space_of_files(config: Config, name: str) -> str:
    entry = _entry(config, name)
    return entry.space or SPACES.get(entry.kind, name)
