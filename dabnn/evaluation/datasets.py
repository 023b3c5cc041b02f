"""Measure every dataset of a model under its own branch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from dabnn.batch import IGNORE_INDEX
from dabnn.conversion.classifiers import head_width
from dabnn.errors import ConfigError, DataError
from dabnn.evaluation.inference import Predict, evaluate_model, predict_logits
from dabnn.evaluation.metrics import SegmentationMetric, SegmentationResult
from dabnn.selection import use_dataset


def evaluate_datasets(
    model: nn.Module,
    loaders: Mapping[str, Iterable[Any]],
    device: torch.device,
    *,
    metrics: Mapping[str, SegmentationMetric] | None = None,
    predict: Predict = predict_logits,
) -> dict[str, SegmentationResult]:
    """Return the result of each dataset under its own branch.

    Args:
        model: A converted model on ``device``; its modes and active dataset are the same afterwards.
        loaders: One loader per dataset; of several processes, each gives its part.
        device: Where the batches are moved to.
        metrics: One metric per dataset; left out, `metric_for` makes them.
        predict: How logits come from images, see `evaluate_model`.

    Raises:
        ConfigError: If the classes of a dataset cannot be told.
        DataError: If a loader is empty, or a batch or label is wrong; the message names the dataset.
        UnknownDatasetError: If the model does not know a dataset.
    """
    if metrics is None:
        metrics = {name: metric_for(model, name, loader) for name, loader in loaders.items()}
    results = {}
    for name, loader in loaders.items():
        try:
            with use_dataset(model, name):
                results[name] = evaluate_model(model, loader, metrics[name], device, predict=predict)
        except DataError as error:
            raise DataError(f"dataset {name!r}: {error}") from error
    return results


def metric_for(model: nn.Module, name: str, loader: Any) -> SegmentationMetric:
    """Return a metric with the classes of a dataset.

    Class names are read from ``loader.source.classes`` or ``loader.dataset.classes``; without them the
    outputs of the dataset's own classifier are numbered.

    Raises:
        ConfigError: If the classes cannot be told.
    """
    for dataset in (getattr(loader, "source", None), getattr(loader, "dataset", None)):
        if dataset is not None and hasattr(dataset, "classes"):
            return SegmentationMetric(dataset.classes, getattr(dataset, "ignore_index", IGNORE_INDEX))
    width = head_width(model, name)
    if width is None:
        raise ConfigError(
            f"the evaluation loader of dataset {name!r} does not tell its classes: give its dataset an "
            "attribute 'classes', or use dabnn.evaluation.evaluate_model with a metric of your own"
        )
    return SegmentationMetric([str(i) for i in range(width)], IGNORE_INDEX)
