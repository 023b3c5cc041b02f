"""Train and evaluate a method on an experiment's datasets, once per seed; finished runs are not repeated."""

from __future__ import annotations

import csv
import json
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model

import dabnn
from dabnn.data import JoinedDataset, SegmentationDataset
from dabnn.errors import ConfigError
from dabnn.evaluation import SegmentationResult
from dabnn.experiments.build import (
    build_dataset,
    build_eval_loader,
    build_model,
    build_optimizer,
    build_scheduler,
    build_train_loader,
    data_directory,
    relabelled,
    space_of,
)
from dabnn.experiments.config import Config, to_dict
from dabnn.experiments.methods import METHODS, Network, get_method
from dabnn.experiments.transfer import transfer
from dabnn.files import written_atomically
from dabnn.training import AlternationTrainer, Callback, CSVLogger, TensorBoardLogger
from dabnn.training.processes import agreed

VERSIONED = ("torch", "torchvision", "timm", "segmentation-models-pytorch")


@dataclass(frozen=True)
class Row:
    """One line of a results table: mIoU in percent on the evaluation split at full image size."""

    method: str
    dataset: str
    seed: int
    steps: int
    miou: float


def run_method(
    config: Config,
    method: str,
    seed: int,
    out: Path,
    *,
    data_dir: Path | None = None,
    callbacks: Callable[[], Iterable[Callback]] = tuple,
) -> list[Row]:
    """Train and evaluate one method with one seed.

    Interrupted trainings resume from their last checkpoint; finished ones are read back. Started by
    ``torchrun`` or ``accelerate launch``, the processes train together and the main one writes.

    Args:
        config: The experiment.
        method: Name of the method, see `dabnn.experiments.methods`.
        seed: Seed of initialisation, data order and augmentation.
        out: Folder of the experiment's runs.
        data_dir: Folder of the datasets, if not the config's.
        callbacks: Makes further callbacks for each training.

    Returns:
        One row per dataset.

    Raises:
        ConfigError: If a folder holds a training with another config, or the method is unknown.
    """
    rows = []
    for network in get_method(method).networks(config.datasets):
        folder = _finish(config, method, seed, network, out, data_directory(config, data_dir), callbacks)
        rows += read_rows(folder)
    return rows


def run_folder(out: Path, method: str, seed: int, datasets: Sequence[str]) -> Path:
    """Return the folder of one training, such as ``runs/three_cities/single-seed0/camvid``."""
    folder = out / f"{method}-seed{seed}"
    return folder if get_method(method).together else folder / datasets[0]


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of a finished training."""
    return [Row(**row) for row in json.loads((folder / "result.json").read_text())["rows"]]


def write_table(
    out: Path, path: Path, config: Config, wanted: Callable[[Row], bool] = lambda row: True
) -> list[Row]:
    """Collect the finished trainings of an experiment into one tidy CSV; return its rows.

    A JSON file beside it holds the config and the environments that the results were made in.

    Args:
        out: Folder of the experiment's runs; those of another config are left out.
        path: The CSV file to write.
        config: The experiment.
        wanted: Which rows to take.
    """
    records = [record for file in out.rglob("result.json") if (record := _read_json(file)) is not None]
    records = [record for record in records if record["config"] == _identity(config)]
    records = [record for record in records if any(wanted(Row(**row)) for row in record["rows"])]
    methods, datasets = list(METHODS), list(config.datasets)
    rows = sorted(
        (Row(**row) for record in records for row in record["rows"]),
        key=lambda row: (methods.index(row.method), row.seed, datasets.index(row.dataset)),
    )
    with written_atomically(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows([row.method, row.dataset, row.seed, row.steps, f"{row.miou:.2f}"] for row in rows)
    environments = {json.dumps(record["environment"], sort_keys=True) for record in records}
    summary = {
        "environments": [json.loads(text) for text in sorted(environments)],
        "config": _identity(config),
    }
    _write_json(path.with_name(f"{path.name.removesuffix('.csv')}.json"), summary)
    return rows


def environment() -> dict[str, str]:
    """Return the versions, commit (of a source checkout) and machine that a result is made with."""
    versions = {package: version(package) for package in VERSIONED}
    return {"dabnn": dabnn.__version__, "commit": _commit(), **versions, "machine": platform.machine()}


def _commit() -> str:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, cwd=root).stdout.strip() or "unknown"


def _is_finished(folder: Path, config: Config) -> bool:
    record = _read_json(folder / "result.json")
    return record is not None and record["config"] == _identity(config)


def _claim(folder: Path, config: Config) -> None:
    """Note the config in the folder of a training; refuse a folder that was begun with another one.

    Raises:
        ConfigError: If the folder belongs to another config, whose checkpoints must not be resumed.
    """
    file = folder / "config.json"
    if _read_json(file) not in (None, _identity(config)):
        raise ConfigError(
            f"{folder} holds a training with another configuration ({file}); give this experiment another "
            "name, choose another --out, or remove the folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(file, _identity(config))


def _read_json(file: Path) -> dict[str, Any] | None:
    """Return what a file holds, or None if there is none or it was torn by something other than dabnn."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content


def _write_json(file: Path, content: dict[str, Any]) -> None:
    with written_atomically(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _identity(config: Config) -> dict[str, Any]:
    """The part of a config that its results depend on."""
    return {key: value for key, value in to_dict(config).items() if key != "data_dir"}


def _finish(
    config: Config,
    method: str,
    seed: int,
    network: Network,
    out: Path,
    data_dir: Path,
    callbacks: Callable[[], Iterable[Callback]],
) -> Path:
    """Train a network, and the one it starts from, unless that was done before; return its folder."""
    folder = run_folder(out, method, seed, network.train)
    if not _is_finished(folder, config):
        start = None
        if network.start is not None:
            single = Network((network.start,), (network.start,))
            start = _finish(config, "single", seed, single, out, data_dir, callbacks)
        _train(config, method, seed, network, start, folder, data_dir, callbacks())
    return folder


def _train(
    config: Config,
    method: str,
    seed: int,
    network: Network,
    start: Path | None,
    folder: Path,
    data_dir: Path,
    callbacks: Iterable[Callback],
) -> None:
    agreed(partial(_claim, folder, config), main_only=True)
    train = {name: _training_split(config, name, network.joined, data_dir) for name in network.train}
    evaluation = {
        name: build_dataset(config, name, train=False, data_dir=data_dir) for name in network.datasets
    }
    trainer = build_trainer(config, method, seed, train, folder, callbacks, start)
    trainer.fit(get_method(method).training(config).steps, resume=True)
    loaders = {name: build_eval_loader(config, dataset) for name, dataset in evaluation.items()}
    results = trainer.evaluate(loaders)
    write = partial(_write_run, config, method, seed, evaluation, folder, data_dir, trainer, results)
    agreed(write, main_only=True)


def _training_split(config: Config, name: str, joined: Sequence[str], data_dir: Path) -> SegmentationDataset:
    own, *others = (build_dataset(config, part, train=True, data_dir=data_dir) for part in (name, *joined))
    if not joined:
        return own
    target = space_of(config, name)
    sources = [space_of(config, part) for part in joined]
    remapped = [relabelled(part, source, target) for part, source in zip(others, sources, strict=True)]
    return JoinedDataset([own, *remapped], name)


def build_trainer(
    config: Config,
    method: str,
    seed: int,
    datasets: dict[str, SegmentationDataset],
    folder: Path,
    callbacks: Iterable[Callback] = (),
    start: Path | None = None,
) -> AlternationTrainer:
    """Return the trainer of one network; seeds torch's global generator.

    Args:
        config: The experiment.
        method: Name of the method.
        seed: Seed of initialisation, data order and augmentation.
        datasets: The training splits by name.
        folder: Folder of the training.
        callbacks: Further callbacks.
        start: Folder of the finished training that a method with ``transfer`` starts from.
    """
    settings = get_method(method)
    training = settings.training(config)
    sizes = {name: len(dataset) for name, dataset in datasets.items()}
    weights, ratios = settings.dataset_weights(sizes), settings.dataset_ratios(sizes)
    torch.manual_seed(seed)
    widths = {name: len(dataset.classes) for name, dataset in datasets.items()}
    if start is None:
        model = build_model(config, widths, convert=settings.convert)
    else:
        model = transfer(start, widths, keep=settings.together, freeze=settings.freeze)
    return AlternationTrainer(
        model,
        {name: build_train_loader(config, dataset, seed) for name, dataset in datasets.items()},
        optimizer=build_optimizer(training, model),
        scheduler=partial(build_scheduler, training),
        backward=training.backward,
        update=settings.update,
        weights={name: config.datasets[name].weight * weights[name] for name in datasets},
        ratios={name: config.datasets[name].ratio * ratios[name] for name in datasets},
        precision=training.precision,
        clip_norm=training.clip_norm,
        channels_last=training.channels_last,
        ema_decay=training.ema_decay,
        activation_checkpointing=training.activation_checkpointing,
        callbacks=[CSVLogger(folder / "metrics.csv"), TensorBoardLogger(folder / "tensorboard"), *callbacks],
        run_dir=folder,
        checkpoint_every=training.checkpoint_every,
    )


def _write_run(
    config: Config,
    method: str,
    seed: int,
    datasets: dict[str, SegmentationDataset],
    folder: Path,
    data_dir: Path,
    trainer: AlternationTrainer,
    results: dict[str, SegmentationResult],
) -> None:
    """Write the weights first and the result last: its presence means that the run is finished."""
    model = trainer.model if trainer.ema is None else trainer.ema.module
    with written_atomically(folder / "model.safetensors") as temporary:
        save_model(model, str(temporary))
    rows = [Row(method, name, seed, trainer.step, result.miou) for name, result in results.items()]
    record = {
        "config": _identity(config),
        "data_dir": str(data_dir.resolve()),
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
        "iou": {name: result.iou for name, result in results.items()},
        "datasets": {
            name: {"classes": dataset.classes, "palette": dataset.palette}
            for name, dataset in datasets.items()
        },
    }
    _write_json(folder / "result.json", record)
