"""Measure one branch of a finished training on another dataset, with its own statistics or recalibrated."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

import dabnn
from dabnn.data import LabelMap, SegmentationDataset, find_space, list_maps, load_map, open_dataset
from dabnn.errors import DataError
from dabnn.evaluation import SegmentationMetric, SegmentationResult, evaluate_model, predict_logits
from dabnn.evaluation.inference import Predict
from dabnn.experiments.build import build_eval_loader
from dabnn.experiments.recalibration import recalibrate_on
from dabnn.experiments.saved import SavedRun, choose_branch, device_of_evaluation, load_run


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
    _check_classes(branch, classes, dataset, label_map)
    device = device_of_evaluation()
    model = dabnn.extract_dataset(saved.model, branch).to(device)
    if recalibrate:
        recalibrate_on(model, dataset, saved.config)

    def projected(model: nn.Module, images: Tensor) -> Tensor:
        logits = predict(model, images)
        return logits if label_map is None else label_map.project(logits)

    metric = SegmentationMetric(dataset.classes, dataset.ignore_index)
    return evaluate_model(model, build_eval_loader(saved.config, dataset), metric, device, predict=projected)


def evaluate_elsewhere(
    folder: Path,
    branch: str | None,
    root: Path,
    *,
    kind: str = "folder",
    split: str = "val",
    recalibrate: bool = False,
    predict: Predict = predict_logits,
) -> SegmentationResult:
    """Measure one branch of a finished training on any dataset that dabnn reads.

    Args:
        folder: Folder of the training.
        branch: The dataset whose branch to use; may be left out if the training had one dataset.
        root: Folder of the other dataset.
        kind: Its reader, see `dabnn.data.READERS`.
        split: Its split.
        recalibrate: See `evaluate_branch`.
        predict: See `evaluate_branch`.

    Raises:
        CheckpointError: If the folder holds no finished training, or one of its files is damaged.
        ConfigError: If no branch is given and the training had several, or it is none of them.
        DataError: If the dataset is not there, or has other classes and there is no map to them.
    """
    saved = load_run(folder)
    name = choose_branch(branch, list(saved.datasets), folder, "--branch")
    dataset = open_dataset(kind, root, split)
    source, target = find_space(saved.datasets[name].classes), find_space(dataset.classes)
    mapped = saved.datasets[name].classes != dataset.classes and (source, target) in list_maps()
    label_map = load_map(str(source), str(target)) if mapped else None
    return evaluate_branch(
        saved, name, dataset, label_map=label_map, recalibrate=recalibrate, predict=predict
    )


def _check_classes(
    branch: str, classes: tuple[str, ...], dataset: SegmentationDataset, label_map: LabelMap | None
) -> None:
    source, target = (classes, classes) if label_map is None else (label_map.source, label_map.target)
    if (source, target) == (classes, dataset.classes):
        return
    text = f"branch {branch!r} has the classes {list(classes)}, {dataset.name!r} has {list(dataset.classes)}"
    if label_map is None:
        raise DataError(f"{text}: dabnn has no label map from one to the other (dabnn.data.list_maps)")
    raise DataError(f"{text}: the label map from {list(source)} to {list(target)} is not between them")
