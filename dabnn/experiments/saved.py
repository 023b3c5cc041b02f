"""Load a finished training from its folder, to evaluate it again or to use it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

import dabnn
from dabnn.conversion.attached import attach_info
from dabnn.data import READERS, SegmentationDataset
from dabnn.errors import CheckpointError, ConfigError, DataError
from dabnn.evaluation import SegmentationMetric, SegmentationResult, evaluate_model, predict_logits
from dabnn.evaluation.inference import Predict
from dabnn.experiments.build.datasets import build_dataset, build_eval_loader, build_model, data_directory
from dabnn.experiments.config import Config, parse_config
from dabnn.experiments.methods import get_method
from dabnn.models import DatasetInfo, ModelInfo
from dabnn.models.stored.folder import is_pretrained
from dabnn.models.stored.info import PAPER
from dabnn.storage.tensors import read_safetensors


class SavedRun(NamedTuple):
    """A finished training.

    Attributes:
        model: The dataset-aware model on the CPU, in eval mode.
        config: The experiment; its ``datasets`` may be more than those of this training.
        datasets: Classes, colours and result of each dataset that the model has a branch for.
    """

    model: nn.Module
    config: Config
    datasets: dict[str, DatasetInfo]


def load_run(folder: Path) -> SavedRun:
    """Load model, config and what is known of the datasets from the folder of a finished training.

    Args:
        folder: Such as ``runs/three_cities/cdcl-seed0``, with ``result.json`` and ``model.safetensors``.

    Raises:
        CheckpointError: If the folder holds no finished training, or one of its files is damaged.
    """
    record = _read_record(folder)
    try:
        data = record["config"]
        # The encoder's pretrained weights would only be overwritten, and need not be installed here.
        config = parse_config(
            {**data, "model": {**data["model"], "weights": "none"}, "data_dir": record["data_dir"]},
            str(folder / "result.json"),
        )
        datasets = _datasets(config, record)
        method = get_method(record["rows"][0]["method"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / 'result.json'} is no result of dabnn: {error!r}; train again"
        ) from error
    widths = {name: len(known.classes) for name, known in datasets.items()}
    with torch.random.fork_rng():
        model = build_model(config, widths, convert=method.conversion(config.model))
    _load_weights(model, folder / "model.safetensors")
    attach_info(model, _info(config, datasets, record))
    return SavedRun(model.eval(), config, datasets)


def load_model(source: str | Path) -> nn.Module:
    """Return the dataset-aware model of a finished training, or one that `dabnn.from_pretrained` knows.

    Either way `dabnn.preprocess` and `dabnn.save_pretrained` know its datasets and its normalisation.

    Args:
        source: Folder of a finished training, or what `dabnn.from_pretrained` takes.
    """
    folder = Path(source)
    if folder.is_dir() and not is_pretrained(folder):
        return load_run(folder).model
    return dabnn.from_pretrained(source)


def evaluate_run(
    folder: Path, *, data_dir: Path | None = None, predict: Predict = predict_logits
) -> dict[str, SegmentationResult]:
    """Measure a finished training again on the evaluation split of each of its datasets.

    Args:
        folder: Folder of the training.
        data_dir: Folder of the datasets; else ``$DABNN_DATA``, else where the training found them.
        predict: How logits come from images, see `dabnn.evaluation.evaluate_model`.

    Raises:
        CheckpointError: If the folder holds no finished training, or one of its files is damaged.
        DataError: If a dataset is not there, or has other classes than the training had.
    """
    model, config, trained = load_run(folder)
    root = data_directory(config, data_dir)
    datasets = {name: build_dataset(config, name, train=False, data_dir=root) for name in trained}
    for name, dataset in datasets.items():
        _check_classes(name, dataset, trained[name].classes)
    device = device_of_evaluation()
    model.to(device)
    results = {}
    for name, dataset in datasets.items():
        metric = SegmentationMetric(dataset.classes, dataset.ignore_index)
        with dabnn.use_dataset(model, name):
            loader = build_eval_loader(config, dataset)
            results[name] = evaluate_model(model, loader, metric, device, predict=predict)
    return results


def _datasets(config: Config, record: Mapping[str, Any]) -> dict[str, DatasetInfo]:
    measured = {row["dataset"]: row["miou"] for row in record["rows"]}
    return {
        name: DatasetInfo(
            entry["classes"],
            entry["palette"],
            {"miou": measured[name]} if isfinite(measured[name]) else {},  # nan: no pixel had a label
            config.datasets[name].evaluate,
            entry.get("size"),  # earlier results do not say it
            _licence(config.datasets[name].kind),
        )
        for name, entry in record["datasets"].items()
    }


def _licence(kind: str) -> str:
    """Return the terms of a dataset, as far as its reader knows them: a folder may hold any data."""
    return READERS[kind].licence if kind in READERS else ""


def _info(config: Config, datasets: dict[str, DatasetInfo], record: Mapping[str, Any]) -> ModelInfo:
    first = record["rows"][0]
    method = get_method(first["method"])
    imagenet = record["config"]["model"].get("weights") == "imagenet"
    start = "ImageNet weights for the encoder" if imagenet else "random weights"
    return ModelInfo(
        datasets=datasets,
        mean=config.images.mean,
        std=config.images.std,
        name=config.name,
        recipe=f"Method: {method.title}, {first['steps']} steps. Initialisation: {start}. "
        f"Images: {_listed(asdict(config.images))}. Training: {_listed(asdict(method.training(config)))}."
        f"{_weights(config, datasets)}",
        paper=PAPER if first["method"] == "cdcl" else "",
    )


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


def choose_branch(branch: str | None, names: list[str], run: str | Path, option: str) -> str:
    """Return the branch that a user means.

    Args:
        branch: What the user says, if anything.
        names: The datasets of the training.
        run: What it was loaded from.
        option: How to say it on the command line.

    Raises:
        ConfigError: If nothing was said and there are several, or it is none of them.
    """
    if branch is None and len(names) == 1:
        return names[0]
    if branch not in names:
        wrong = "" if branch is None else f", not {branch!r}"
        raise ConfigError(f"{run} has branches for {names}{wrong}; say which one to use with {option}")
    return branch


def device_of_evaluation() -> torch.device:
    """Return the accelerator of this machine, or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _read_record(folder: Path) -> dict[str, Any]:
    file = folder / "result.json"
    if not file.is_file():
        below = sorted(str(path.parent) for path in folder.glob("*/result.json"))
        hint = f"choose one of {', '.join(below)}" if below else "train first, or let the training finish"
        raise CheckpointError(f"{folder} holds no finished training (no result.json): {hint}")
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file}: {error}; train again") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{file} is no result of dabnn; train again")
    return record


def _load_weights(model: nn.Module, file: Path) -> None:
    try:
        dabnn.load_state_dict(model, read_safetensors(file))
    except (OSError, SafetensorError, CheckpointError) as error:
        raise CheckpointError(f"cannot load {file}: {error}; copy it again or train again") from error


def _check_classes(name: str, dataset: SegmentationDataset, trained: tuple[str, ...]) -> None:
    if dataset.classes != trained:
        raise DataError(
            f"dataset {name!r} has the classes {list(dataset.classes)}, the run was trained on "
            f"{list(trained)}; point --data to the data of the training"
        )
