"""Build datasets, loaders, model, optimizer and schedule from a config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base.initialization import initialize_head
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

import dabnn
import dabnn.models
from dabnn.conversion.classifiers import resize_classifier
from dabnn.data import (
    READERS,
    LabelSpace,
    RelabelledDataset,
    SeededLoader,
    SegmentationDataset,
    ToyStreets,
    eval_transform,
    load_map,
    load_space,
    open_dataset,
    read_map,
    train_transform,
)
from dabnn.errors import ConfigError
from dabnn.experiments.build.weights import load_imagenet_encoder
from dabnn.experiments.config import Config, DatasetConfig, ModelConfig, TrainingConfig
from dabnn.training import poly, sgd

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


def build_train_loader(config: Config, dataset: SegmentationDataset, seed: int) -> SeededLoader:
    """Return the shuffled, augmented loader; its batches depend on the seed and the dataset alone."""
    images = config.images
    transform = train_transform(
        images.crop,
        scale=images.scale,
        flip=images.flip,
        jitter=images.jitter,
        mean=images.mean,
        std=images.std,
        ignore_index=dataset.ignore_index,
    )
    return SeededLoader(
        dataset,
        config.training.batch_size,
        transform=transform,
        seed=seed,
        num_workers=config.training.workers,
    )


def build_eval_loader(config: Config, dataset: SegmentationDataset, *, shuffle: bool = False) -> SeededLoader:
    """Return the loader of whole images, one by one since sizes may differ; in file order or shuffled."""
    transform = eval_transform(mean=config.images.mean, std=config.images.std)
    return SeededLoader(dataset, 1, transform=transform, shuffle=shuffle, drop_last=False)


def build_model(
    config: Config, num_classes: Mapping[str, int], *, convert: Mapping[str, Any] | None = None
) -> nn.Module:
    """Return a dataset-aware model for the given datasets, initialised from torch's random state.

    Args:
        config: The experiment.
        num_classes: Number of classes by dataset name, in branch order.
        convert: Further options of `dabnn.convert_to_dataset_aware`.
    """
    entry = config.model
    model = plain_model(entry, max(num_classes.values()))
    if entry.weights == "imagenet":
        load_imagenet_encoder(model, entry.encoder)
    if entry.bn_momentum is not None:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = entry.bn_momentum
    return dabnn.convert_to_dataset_aware(
        model,
        dataset_names=list(num_classes),
        num_classes=list(num_classes.values()),
        head_factory=new_head,
        **(convert or {}),
    )


def plain_model(entry: ModelConfig, num_classes: int) -> nn.Module:
    """Return the model of an experiment before its conversion, without pretrained weights.

    Raises:
        ConfigError: If its library has no such model or refuses its arguments.
    """
    arguments: dict[str, Any] = dict(entry.arguments)
    if entry.library == "smp":
        arguments |= {"classes": num_classes, "encoder_weights": None}
    else:
        arguments |= {"num_classes": num_classes}
    try:
        architecture = getattr(smp if entry.library == "smp" else dabnn.models, entry.architecture)
        model: nn.Module = architecture(entry.encoder, **arguments)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model {entry.architecture} with encoder {entry.encoder}: {error}") from error
    return model


def new_head(old: nn.Module, num_classes: int) -> nn.Module:
    """Return a classifier initialised as SMP does, so that it starts alike with one dataset and with many."""
    head = nn.Sequential(resize_classifier(old, num_classes))
    initialize_head(head)
    return head[0]


def build_optimizer(config: TrainingConfig, model: nn.Module) -> Optimizer:
    """Return the optimizer over all trainable parameters."""
    if config.optimizer == "sgd":
        return sgd(model, config.lr, config.momentum, config.weight_decay)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return AdamW(trainable, lr=config.lr, weight_decay=config.weight_decay)


def build_scheduler(config: TrainingConfig, optimizer: Optimizer, max_steps: int) -> LRScheduler:
    """Return the schedule, after a linear warm-up if there is one."""
    length = max_steps - config.warmup
    if config.schedule == "poly":
        schedule: LRScheduler = poly(optimizer, length)
    elif config.schedule == "cosine":
        schedule = CosineAnnealingLR(optimizer, length)
    else:
        schedule = ConstantLR(optimizer, factor=1.0)
    if not config.warmup:
        return schedule
    warmup = LinearLR(optimizer, start_factor=1 / config.warmup, total_iters=config.warmup)
    return SequentialLR(optimizer, [warmup, schedule], milestones=[config.warmup])
