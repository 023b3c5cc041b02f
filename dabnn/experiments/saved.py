"""Load a finished training from its folder, to evaluate it again or to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from dabnn import from_pretrained
from dabnn.data import SegmentationDataset
from dabnn.errors import CheckpointError, ConfigError, DataError
from dabnn.evaluation import SegmentationMetric, SegmentationResult, predict_logits
from dabnn.evaluation.datasets import evaluate_datasets
from dabnn.evaluation.inference import Predict, best_device
from dabnn.experiments.build import build_dataset, build_eval_loader, data_directory
from dabnn.experiments.config import Config, parse_config
from dabnn.experiments.old_runs import load_old_model
from dabnn.models.stored.folder import MODEL, info_of, is_pretrained, model_folder
from dabnn.storage.atomic import standing

RESULT = "result.json"
"""File that a training writes last: where it is, the training is finished."""


class SavedRun(NamedTuple):
    """A finished training.

    Attributes:
        model: The dataset-aware model on the CPU, in eval mode, with what is known of it (`info_of`).
        config: The experiment; its ``datasets`` may be more than those of this training.
    """

    model: nn.Module
    config: Config


def load_run(folder: Path) -> SavedRun:
    """Load model and config from the folder of a finished training.

    Args:
        folder: Such as ``runs/three_cities/cdcl-seed0``.

    Raises:
        CheckpointError: If the folder holds no finished training, or one of its files is damaged.
    """
    record = _read_record(folder)
    file = folder / RESULT
    try:
        config = parse_config({**record["config"], "data_dir": record["data_dir"]}, str(file))
        if not standing(folder / MODEL).is_dir():
            return SavedRun(load_old_model(folder, config, record), config)
    except CheckpointError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is no result of dabnn: {error!r}; train again") from error
    return SavedRun(from_pretrained(folder / MODEL), config)


def load_source(source: str | Path) -> tuple[nn.Module, Config | None]:
    """Return the model of a training, a folder, a name of the zoo or a repository; of a training, its config.

    Args:
        source: Folder of a finished training, or what `dabnn.from_pretrained` takes.
    """
    folder = Path(source)
    if is_run(folder) or (folder.is_dir() and not is_pretrained(model_folder(folder))):
        return load_run(folder)
    return from_pretrained(source), None


def load_model(source: str | Path) -> nn.Module:
    """Return the model of a training, a folder, a name of the zoo or a repository.

    It does what `dabnn.from_pretrained` does, and loads trainings of earlier versions of dabnn as well.
    """
    return load_source(source)[0]


def is_run(source: str | Path) -> bool:
    """Return whether something is the folder of a finished training."""
    return (Path(source) / RESULT).is_file()


def evaluate_run(
    source: str | Path, *, data_dir: Path | None = None, predict: Predict = predict_logits
) -> dict[str, SegmentationResult]:
    """Measure a finished training again on the evaluation split of each of its datasets.

    Args:
        source: Folder of the training.
        data_dir: Folder of the datasets; else ``$DABNN_DATA``, else where the training found them.
        predict: How logits come from images, see `dabnn.evaluation.evaluate_model`.

    Raises:
        CheckpointError: If the folder holds no finished training, or one of its files is damaged.
        ConfigError: If it is a model that does not know where its data is.
        DataError: If a dataset is not there, or has other classes than the training had.
    """
    model, config = load_source(source)
    if config is None:
        raise ConfigError(
            f"{source} is a model, not a training that knows where its data is: say with --on FOLDER what to "
            "measure it on"
        )
    root = data_directory(config, data_dir)
    trained = info_of(model).datasets
    datasets = {name: build_dataset(config, name, train=False, data_dir=root) for name in trained}
    for name, dataset in datasets.items():
        _check_classes(name, dataset, trained[name].classes)
    metrics = {name: SegmentationMetric(d.classes, d.ignore_index) for name, d in datasets.items()}
    loaders = {name: build_eval_loader(config, dataset) for name, dataset in datasets.items()}
    device = best_device()
    return evaluate_datasets(model.to(device), loaders, device, metrics=metrics, predict=predict)


def _read_record(folder: Path) -> dict[str, Any]:
    file = folder / RESULT
    if not file.is_file():
        below = sorted(str(path.parent) for path in folder.glob(f"*/{RESULT}"))
        hint = f"choose one of {', '.join(below)}" if below else "train first, or let the training finish"
        raise CheckpointError(f"{folder} holds no finished training (no {RESULT}): {hint}")
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file}: {error}; train again") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{file} is no result of dabnn; train again")
    return record


def _check_classes(name: str, dataset: SegmentationDataset, trained: tuple[str, ...]) -> None:
    if dataset.classes != trained:
        raise DataError(
            f"dataset {name!r} has the classes {list(dataset.classes)}, the run was trained on "
            f"{list(trained)}; point --data to the data of the training"
        )
