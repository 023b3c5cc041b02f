"""Build the trainer of one network of an experiment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dabnn.data import SegmentationDataset
from dabnn.experiments.build import build_model, build_optimizer, build_scheduler, build_train_loader
from dabnn.experiments.config import Config
from dabnn.experiments.losses import build_losses
from dabnn.experiments.methods import Method
from dabnn.experiments.transfer import transfer
from dabnn.training import AlternationTrainer, Callback, CSVLogger, TensorBoardLogger


def build_trainer(
    config: Config,
    method: Method,
    seed: int,
    datasets: Mapping[str, SegmentationDataset],
    folder: Path,
    callbacks: Iterable[Callback] = (),
    start: nn.Module | None = None,
) -> AlternationTrainer:
    """Return the trainer of one network; seeds torch's global generator.

    Args:
        config: The experiment.
        method: How it is trained.
        seed: Seed of initialisation, data order and augmentation.
        datasets: The training splits by name.
        folder: Folder of the training.
        callbacks: Further callbacks.
        start: The single-dataset network that a method with ``transfer`` starts from; it is changed.
    """
    training = method.training(config)
    sizes = {name: len(dataset) for name, dataset in datasets.items()}
    weights, ratios = method.dataset_weights(sizes), method.dataset_ratios(sizes)
    widths = {name: len(dataset.classes) for name, dataset in datasets.items()}
    losses = build_losses(config, widths)
    torch.manual_seed(seed)
    if start is None:
        model = build_model(config, widths, convert=method.conversion(config.model))
    else:
        model = transfer(start, widths, keep=method.together, reset=method.reset, freeze=method.freeze)
    return AlternationTrainer(
        model,
        {name: build_train_loader(config, dataset, seed) for name, dataset in datasets.items()},
        optimizer=build_optimizer(training, model),
        loss=losses,
        scheduler=partial(build_scheduler, training),
        backward=training.backward,
        update=method.update,
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
