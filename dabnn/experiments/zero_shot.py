"""Measure one branch of a finished training on another dataset, with its own statistics or recalibrated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import dabnn
from dabnn.data import LabelMap, SegmentationDataset
from dabnn.data.batch import inputs_of
from dabnn.errors import DataError
from dabnn.evaluation import SegmentationMetric, SegmentationResult, evaluate_model, predict_logits
from dabnn.evaluation.inference import Predict
from dabnn.experiments.build import build_eval_loader
from dabnn.experiments.saved import SavedRun, device_of_evaluation


def evaluate_branch(
    saved: SavedRun,
    branch: str,
    dataset: SegmentationDataset,
    *,
    label_map: LabelMap | None = None,
    recalibrate: bool = False,
    predict: Predict = predict_logits,
) -> SegmentationResult:
    """Measure one branch on a dataset.

    Args:
        saved: The training; not changed.
        branch: The dataset whose branch to use.
        dataset: Images and labels.
        label_map: From the classes of the branch to those of the dataset, if they differ.
        recalibrate: First replace the running statistics of the branch by those of the images of ``dataset``
            (precise BN, Section 4.7). This reads the images that are measured on, not their labels.
        predict: How logits come from images, see `dabnn.evaluation.evaluate_model`.

    Raises:
        DataError: The classes differ and there is no map between them.
    """
    classes = saved.datasets[branch].classes
    if label_map is None and classes != dataset.classes:
        raise DataError(
            f"branch {branch!r} has the classes {list(classes)}, {dataset.name!r} has "
            f"{list(dataset.classes)}: a label map from one to the other is needed"
        )
    device = device_of_evaluation()
    model = dabnn.extract_dataset(saved.model, branch).to(device)
    if recalibrate:
        images = build_eval_loader(saved.config, dataset)
        dabnn.recalibrate_batch_norm(model, same_size_batches(images, saved.config.training.batch_size))

    def projected(model: nn.Module, images: Tensor) -> Tensor:
        logits = predict(model, images)
        return logits if label_map is None else label_map.project(logits)

    metric = SegmentationMetric(dataset.classes, dataset.ignore_index)
    return evaluate_model(model, build_eval_loader(saved.config, dataset), metric, device, predict=projected)


def same_size_batches(loader: Iterable[Mapping[str, Any]], count: int) -> Iterator[dict[str, Tensor]]:
    """Yield the images of a loader in batches of one size of image; a single image that is left is dropped.

    Args:
        loader: Batches of one image.
        count: Images a batch, fewer in the last of each size.
    """
    waiting: dict[torch.Size, list[Tensor]] = {}
    for batch in loader:
        images = waiting.setdefault(inputs_of(batch).shape, [])
        images.append(inputs_of(batch))
        if len(images) == count:
            yield {"image": torch.cat(images)}
            images.clear()
    yield from ({"image": torch.cat(images)} for images in waiting.values() if len(images) > 1)
