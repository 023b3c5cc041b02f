"""Train and evaluate a method on an experiment's datasets, once per seed; finished runs are not repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_model

from dabnn.data import JoinedDataset, SegmentationDataset
from dabnn.errors import ConfigError
from dabnn.evaluation import SegmentationResult
from dabnn.experiments.build.datasets import (
    build_dataset,
    build_eval_loader,
    build_model,
    build_optimizer,
    build_scheduler,
    build_train_loader,
    data_directory,
    remapped,
)
from dabnn.experiments.config import Config
from dabnn.experiments.losses import build_losses
from dabnn.experiments.methods import Network, get_method
from dabnn.experiments.results import Row, environment, identity, is_of, read_json, read_rows, write_json
from dabnn.experiments.transfer import transfer
from dabnn.experiments.whole_images import recalibrate_on
from dabnn.storage.atomic import written_atomically
from dabnn.training import AlternationTrainer, Callback, CSVLogger, FastDilation, TensorBoardLogger
from dabnn.training.processes import agreed

BATCHES = 50
"""Batches of each dataset that a recalibration reads."""


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
        ConfigError: If a folder holds a training with another config, the method is unknown, or norms that
            it shares are to be recalibrated.
    """
    if config.training.recalibrate and get_method(method).conversion(config.model):
        raise ConfigError(f"training.recalibrate needs norms of each dataset, {method!r} shares some")
    rows = []
    for network in get_method(method).networks(config.datasets):
        folder = _finish(config, method, seed, network, out, data_directory(config, data_dir), callbacks)
        rows += read_rows(folder)
    return rows


def run_folder(out: Path, method: str, seed: int, datasets: Sequence[str]) -> Path:
    """Return the folder of one training, such as ``runs/three_cities/single-seed0/camvid``."""
    folder = out / f"{method}-seed{seed}"
    return folder if get_method(method).together else folder / datasets[0]


def is_finished(folder: Path, config: Config) -> bool:
    """Return whether a folder holds a finished training of an experiment."""
    record = read_json(folder / "result.json")
    return record is not None and is_of(record["config"], config)


def _claim(folder: Path, config: Config) -> None:
    """Note the config in the folder of a training; refuse a folder that was begun with another one.

    Raises:
        ConfigError: If the folder belongs to another config, whose checkpoints must not be resumed.
    """
    file = folder / "config.json"
    begun = read_json(file)
    if begun is not None and not is_of(begun, config):
        raise ConfigError(
            f"{folder} holds a training with another configuration ({file}); give this experiment another "
            "name, choose another --out, or remove the folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, identity(config))


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
    if not is_finished(folder, config):
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
    loaders = {name: build_eval_loader(config, dataset) for name, dataset in evaluation.items()}
    with FastDilation():
        trainer.fit(get_method(method).training(config).steps, resume=True)
        if config.training.recalibrate:
            _recalibrate(config, trainer, train)
        results = trainer.evaluate(loaders)
    write = partial(_write_run, config, method, seed, evaluation, folder, data_dir, trainer, results)
    agreed(write, main_only=True)


def _recalibrate(
    config: Config, trainer: AlternationTrainer, datasets: Mapping[str, SegmentationDataset]
) -> None:
    for name, dataset in datasets.items():
        recalibrate_on(trainer.trained_model, dataset, config, branch=name, max_batches=BATCHES)


def _training_split(config: Config, name: str, joined: Sequence[str], data_dir: Path) -> SegmentationDataset:
    own = build_dataset(config, name, train=True, data_dir=data_dir)
    others = [remapped(config, name, other, own, data_dir) for other in joined]
    return JoinedDataset([own, *others], name) if others else own


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
    widths = {name: len(dataset.classes) for name, dataset in datasets.items()}
    losses = build_losses(config, widths)
    torch.manual_seed(seed)
    if start is None:
        model = build_model(config, widths, convert=settings.conversion(config.model))
    else:
        model = transfer(start, widths, keep=settings.together, reset=settings.reset, freeze=settings.freeze)
    return AlternationTrainer(
        model,
        {name: build_train_loader(config, dataset, seed) for name, dataset in datasets.items()},
        optimizer=build_optimizer(training, model),
        loss=losses,
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
    with written_atomically(folder / "model.safetensors") as temporary:
        save_model(trainer.trained_model, str(temporary))
    rows = [Row(method, name, seed, trainer.step, result.miou) for name, result in results.items()]
    record = {
        "config": identity(config),
        "data_dir": str(data_dir.resolve()),
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
        "iou": {name: result.iou for name, result in results.items()},
        "datasets": {
            name: {"classes": dataset.classes, "palette": dataset.palette, **_size_of(dataset)}
            for name, dataset in datasets.items()
        },
    }
    write_json(folder / "result.json", record)


def _size_of(dataset: SegmentationDataset) -> dict[str, tuple[int, int]]:
    """Return height and width of all images as "size", or nothing if they differ."""
    sizes = {tuple(dataset[index]["image"].shape[-2:]) for index in range(len(dataset))}
    return {"size": sizes.pop()} if len(sizes) == 1 else {}
