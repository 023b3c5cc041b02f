"""Measure one branch of a model on another dataset, with its own statistics or recalibrated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from dabnn import extract_dataset
from dabnn.data import (
    LabelMap,
    SeededLoader,
    SegmentationDataset,
    eval_transform,
    find_space,
    list_maps,
    load_map,
    open_dataset,
    read_map,
)
from dabnn.deploy.predict import choose_branch
from dabnn.errors import DataError
from dabnn.evaluation import SegmentationMetric, SegmentationResult, evaluate_model, predict_logits
from dabnn.evaluation.inference import Predict, best_device
from dabnn.experiments.build import relabelled
from dabnn.experiments.measured import Measured
from dabnn.experiments.whole_images import recalibrate_on
from dabnn.models.stored.folder import info_of

BATCH_SIZE = 8
"""Images of a batch whose statistics are taken; that of the paper's training."""


def evaluate_branch(
    model: nn.Module,
    branch: str,
    dataset: SegmentationDataset,
    *,
    label_map: LabelMap | None = None,
    recalibrate: bool = False,
    batch_size: int | None = None,
    predict: Predict = predict_logits,
) -> SegmentationResult:
    """Measure one branch on a dataset.

    Args:
        model: A model of `dabnn.from_pretrained`; not changed.
        branch: The dataset whose branch to use.
        dataset: Images and labels.
        label_map: From the classes of the branch to those of the dataset, if they differ.
        recalibrate: First replace the running statistics of the branch by those of the images of ``dataset``
            (precise BN, Section 4.7). This reads the images that are measured on, not their labels.
        batch_size: Images a batch of that; default 8, as in the paper's training.
        predict: How logits come from images, see `dabnn.evaluation.evaluate_model`.

    Raises:
        DataError: The classes differ and there is no map between them.
    """
    info = info_of(model)
    _check_classes(branch, info.datasets[branch].classes, dataset, label_map)
    device = best_device()
    plain = extract_dataset(model, branch).to(device)
    transform = eval_transform(mean=info.mean, std=info.std)
    if recalibrate:
        shuffled = SeededLoader(dataset, 1, transform=transform, drop_last=False)
        recalibrate_on(plain, shuffled, batch_size or BATCH_SIZE)

    def projected(model: nn.Module, images: Tensor) -> Tensor:
        logits = predict(model, images)
        return logits if label_map is None else label_map.project(logits)

    metric = SegmentationMetric(dataset.classes, dataset.ignore_index)
    images = SeededLoader(dataset, 1, transform=transform, shuffle=False, drop_last=False)
    return evaluate_model(plain, images, metric, device, predict=projected)


def evaluate_elsewhere(
    model: nn.Module,
    branch: str | None,
    root: Path,
    *,
    kind: str = "folder",
    split: str = "val",
    label_map: Path | None = None,
    recalibrate: bool = False,
    batch_size: int | None = None,
    predict: Predict = predict_logits,
) -> Measured:
    """Measure one branch of a model on any dataset that dabnn reads.

    Where their classes differ, a label map that dabnn has turns the predictions into the classes of the
    dataset. If there is one in the other direction only, it turns the labels into the classes of the branch.

    Args:
        model: A model of `dabnn.from_pretrained`; not changed.
        branch: The dataset whose branch to use; may be left out if the model has one.
        root: Folder of the other dataset.
        kind: Its reader, see `dabnn.data.READERS`.
        split: Its split.
        label_map: File of a label map of one's own, from the classes of the branch to those of the dataset,
            see `dabnn.data.read_map`.
        recalibrate: See `evaluate_branch`.
        batch_size: See `evaluate_branch`.
        predict: See `evaluate_branch`.

    Raises:
        ConfigError: If no branch is given and the model has several, or it is none of them.
        DataError: If the dataset is not there, or has other classes and there is no map between them.
    """
    datasets = info_of(model).datasets
    name = choose_branch(branch, list(datasets), "--branch")
    dataset: SegmentationDataset = open_dataset(kind, root, split)
    classes = datasets[name].classes
    ours, theirs = find_space(classes), find_space(dataset.classes)
    own = None if label_map is None else read_map(label_map, classes, dataset.classes)
    forward, backward = own or _shipped_map(ours, theirs), _shipped_map(theirs, ours)
    used = forward or backward
    turned = backward if forward is None else None
    if turned is not None:
        dataset = relabelled(dataset, str(theirs), str(ours))
    result = evaluate_branch(
        model,
        name,
        dataset,
        label_map=forward,
        recalibrate=recalibrate,
        batch_size=batch_size,
        predict=predict,
    )
    unmatched = () if used is None else tuple(c for c in used.target if c not in used.classes.values())
    return Measured(result, unmatched, tuple(_notes(name, turned, unmatched)))


def _shipped_map(source: str | None, target: str | None) -> LabelMap | None:
    return load_map(str(source), str(target)) if (source, target) in list_maps() else None


def _notes(branch: str, turned: LabelMap | None, unmatched: tuple[str, ...]) -> Iterator[str]:
    if turned is not None:
        void = [name for name in turned.source if turned.classes[name] is None]
        yield (
            f"Measured in the classes of branch {branch!r}: the labels were relabelled, since dabnn has no "
            "map in the other direction. Labels that became void, and do not count: "
            f"{', '.join(void) or 'none'}."
        )
    if unmatched:
        source = f"branch {branch!r}" if turned is None else "the dataset"
        yield (
            f"No class of {source} is mapped to: {', '.join(unmatched)}. Whatever the network does, their "
            "IoU is 0, which counts in the mean, or nan for those that do not occur."
        )


def _check_classes(
    branch: str, classes: tuple[str, ...], dataset: SegmentationDataset, label_map: LabelMap | None
) -> None:
    source, target = (classes, classes) if label_map is None else (label_map.source, label_map.target)
    if (source, target) == (classes, dataset.classes):
        return
    text = f"branch {branch!r} has the classes {list(classes)}, {dataset.name!r} has {list(dataset.classes)}"
    if label_map is None:
        raise DataError(
            f"{text}, and there is no label map between them. {_known_maps(classes)}; one of your own "
            "is given with --map"
        )
    raise DataError(f"{text}: the label map from {list(source)} to {list(target)} is not between them")


def _known_maps(classes: tuple[str, ...]) -> str:
    space = find_space(classes)
    known = [f"{source} to {target}" for source, target in list_maps() if space in (source, target)]
    if not known:
        return "Classes of the branch are those of no label space that dabnn has maps for"
    return f"For the classes of the branch dabnn has the maps {', '.join(known)}"
