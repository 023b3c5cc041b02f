"""What a finished training says of its model: datasets, results and recipe, for `dabnn.save_pretrained`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

from dabnn.data import READERS, SegmentationDataset
from dabnn.experiments.config import Config
from dabnn.experiments.methods import Method
from dabnn.models import DatasetInfo, ModelInfo
from dabnn.models.stored.info import PAPER


def describe_run(
    config: Config, method: Method, steps: int, datasets: Mapping[str, DatasetInfo]
) -> ModelInfo:
    """Return what is known of the model of a training.

    Args:
        config: The experiment.
        method: How it was trained.
        steps: For how many steps.
        datasets: The datasets that it has a branch for.
    """
    imagenet = config.model.weights == "imagenet"
    start = "ImageNet weights for the encoder" if imagenet else "random weights"
    return ModelInfo(
        datasets=dict(datasets),
        mean=config.images.mean,
        std=config.images.std,
        name=config.name,
        recipe=f"Method: {method.title}, {steps} steps. Initialisation: {start}. "
        f"Images: {_listed(asdict(config.images))}. Training: {_listed(asdict(method.training(config)))}."
        f"{_weights(config, datasets)}",
        paper=PAPER if method.name == "cdcl" else "",
    )


def describe_dataset(config: Config, name: str, dataset: SegmentationDataset, miou: float) -> DatasetInfo:
    """Return what is known of a dataset that a training was measured on.

    Args:
        config: The experiment.
        name: The dataset.
        dataset: Its evaluation split.
        miou: The result on it, in percent; nan if no pixel had a label.
    """
    return dataset_info(config, name, dataset.classes, dataset.palette, miou, _common_size(dataset))


def dataset_info(
    config: Config,
    name: str,
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...],
    miou: float,
    size: tuple[int, int] | None,
) -> DatasetInfo:
    """Return a description from its parts, and the split and terms that the experiment knows."""
    entry = config.datasets[name]
    # A folder may hold any data: its reader knows no terms.
    licence = READERS[entry.kind].licence if entry.kind in READERS else ""
    metrics = {"miou": miou} if isfinite(miou) else {}
    return DatasetInfo(classes, palette, metrics, entry.evaluate, size, licence)


def _common_size(dataset: SegmentationDataset) -> tuple[int, int] | None:
    """Return height and width of all images, or None if they differ."""
    sizes = {dataset.image_size(index) for index in range(len(dataset))}
    return sizes.pop() if len(sizes) == 1 else None


def _listed(settings: Mapping[str, Any]) -> str:
    hidden = ("mean", "std", "steps", "workers", "checkpoint_every")
    used = {key: value for key, value in settings.items() if key not in hidden}
    return ", ".join(
        f"{key} {value}" for key, value in used.items() if value is not None and value is not False
    )


def _weights(config: Config, names: Iterable[str]) -> str:
    """Say the loss weights of the datasets, if they differ from 1."""
    weights = {name: config.datasets[name].weight for name in names}
    listed = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    return "" if set(weights.values()) == {1.0} else f" Loss weights: {listed}."
