"""Dataset Alternation Training for any task: N forwards, one step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dabnn.branches.calibrate import sync_batch_norm_buffers
from dabnn.errors import ConfigError
from dabnn.evaluation import SegmentationResult
from dabnn.evaluation.datasets import evaluate_datasets, metric_for
from dabnn.training.batch import Draw, LossFunction, cross_entropy
from dabnn.training.callbacks import Callback, ProgressBar
from dabnn.training.checkpoint import latest_checkpoint
from dabnn.training.ema import ModelAverage
from dabnn.training.length import total_steps
from dabnn.training.loaders import AlternatingLoaders
from dabnn.training.options import BackwardMode, EpochLength, Precision, TrainerOptions, UpdateMode
from dabnn.training.precision import loss_scale
from dabnn.training.prepare import (
    check_optimizer,
    checkpoint_activations,
    losses_by_dataset,
    make_accelerator,
    prepare_exchange,
    prepare_loaders,
    trained_datasets,
)
from dabnn.training.processes import agreed, any_process, check_agreement, shard
from dabnn.training.recipe import poly, sgd
from dabnn.training.signals import StopRequest, catch_sigterm
from dabnn.training.state import RunState, SchedulerFactory
from dabnn.training.step import AlternationStep
from dabnn.training.stepping import Stepper

SIGTERM_EXIT = 143


class AlternationTrainer:
    """Trains one dataset-aware model on several datasets at once.

    Each step draws a batch of every dataset, sums the losses and makes one optimizer step (Section 3.2,
    Dataset Alternation Training). Left alone it follows the paper: cross-entropy, SGD with momentum 0.9
    and weight decay 1e-4, polynomial decay with power 0.9.

    Attributes:
        options: How it trains, as given.
        callbacks: Those that this process calls.
        accelerator: Tells device and processes.

    Example:
        >>> import torch, dabnn
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 19, 1), torch.nn.BatchNorm2d(19))
        >>> model = dabnn.convert_to_dataset_aware(net, dataset_names=["cityscapes", "camvid"])
        >>> batches = [(torch.randn(4, 3, 8, 8), torch.randint(19, (4, 8, 8)))]
        >>> loaders = {"cityscapes": batches, "camvid": batches}
        >>> trainer = dabnn.AlternationTrainer(model, loaders, callbacks=[])
        >>> trainer.fit(max_steps=2)
        >>> trainer.step
        2
    """

    def __init__(
        self,
        model: nn.Module,
        loaders: Mapping[str, Iterable[Any]] | Iterable[Any],
        *,
        optimizer: Optimizer | None = None,
        loss: LossFunction | Mapping[str, LossFunction] = cross_entropy,
        scheduler: SchedulerFactory | None = None,
        backward: BackwardMode = "per_dataset",
        update: UpdateMode = "alternation",
        weights: Mapping[str, float] | None = None,
        ratios: Mapping[str, int] | None = None,
        precision: Precision = "no",
        clip_norm: float | None = None,
        channels_last: bool = False,
        ema_decay: float | None = None,
        activation_checkpointing: bool = False,
        callbacks: Sequence[Callback] | None = None,
        run_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
        keep: int = 2,
    ) -> None:
        """Check everything that can be checked before training.

        Started by ``torchrun`` or ``accelerate launch``, each process trains a copy of the model on its part
        of the data, with the average gradient of all. Every process then has to call every method.

        Args:
            model: A converted model. It is moved to the accelerator's device.
            loaders: One iterable of batches per dataset, by name; a batch is ``(inputs, target)`` or a
                mapping with "image" and "mask". Or one iterable of mixed batches, see
                `dabnn.training.MixedLoader`. Several processes divide it, see `dabnn.training.processes`.
            optimizer: Over all trainable parameters; default the paper's SGD with learning rate 0.01.
            loss: ``loss(output, batch)`` -> scalar tensor, one for all datasets or one each.
            scheduler: ``scheduler(optimizer, max_steps)``, stepped once per step; default the paper's
                polynomial decay with the default optimizer, a constant rate with your own.
            backward: How the gradient is computed, see `dabnn.training.step`; all ways but "mixed"
                give the same.
            update: "alternation" makes one optimizer step for the sum of all losses, "dataset" one after
                each batch, for its term of the sum: the paper's ablation without DAT (Table 3). "shuffled"
                does that in an order drawn anew in each step.
            weights: Loss weights w_i of Eq. 3, by dataset; default 1.
            ratios: Batches per step, by dataset; default 1. A dataset's loss is the mean over its batches.
            precision: Mixed precision of the forward passes; "fp16" (with loss scaling) needs a GPU.
            clip_norm: Largest norm of the summed gradient.
            channels_last: Use the channels-last memory format.
            ema_decay: Keep an average of weights and buffers with this decay in [0, 1), and evaluate it.
            activation_checkpointing: Trade time for memory with the model's own ``set_grad_checkpointing``.
                The gradient stays exact, but norms inside see every batch twice (torch runs the forward
                again), so their running statistics move as with momentum 1 - (1 - m)^2.
            callbacks: See `dabnn.training.callbacks`; default a progress bar.
            run_dir: Where checkpoints are written, in the folder "checkpoints".
            checkpoint_every: Steps between checkpoints; there is also one at the end and on SIGTERM.
            keep: How many of the newest checkpoints stay.

        Raises:
            ConfigError: If names do not match, arguments contradict each other, or a trainable parameter is
                missing from the optimizer.
            UnknownDatasetError: If a loader is given for a dataset that the model does not know.
            NotDatasetAwareError: If the model was not converted.
        """
        self.options = TrainerOptions(
            backward=backward,
            update=update,
            precision=precision,
            clip_norm=clip_norm,
            channels_last=channels_last,
            ema_decay=ema_decay,
            activation_checkpointing=activation_checkpointing,
            run_dir=Path(run_dir) if run_dir is not None else None,
            checkpoint_every=checkpoint_every,
            keep=keep,
        )
        losses = losses_by_dataset(loss, trained_datasets(model, loaders))
        if optimizer is None:
            optimizer, scheduler = sgd(model), scheduler or poly
        check_optimizer(model, optimizer)
        self.accelerator = make_accelerator()
        scaler = loss_scale(precision, self.accelerator.device)
        prepared = prepare_loaders(model, loaders, weights, ratios, update)
        if activation_checkpointing:
            checkpoint_activations(model)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        step = AlternationStep(model, losses, precision)
        exchange = prepare_exchange(self.accelerator, step)
        ema = ModelAverage(model, ema_decay) if ema_decay is not None else None
        self._run = RunState(model, ema, prepared, optimizer, scaler, update)
        self._stepper = Stepper(self._run, step, exchange, self.options, self.accelerator.device)
        self._scheduler_factory = scheduler
        callbacks = [ProgressBar()] if callbacks is None else callbacks
        main = self.accelerator.is_main_process
        self.callbacks = [callback for callback in callbacks if main or not callback.main_process_only]
        self._stopping = False

    def fit(
        self,
        max_steps: int | None = None,
        *,
        epochs: int | None = None,
        epoch_length: EpochLength = "longest",
        resume: bool = False,
    ) -> None:
        """Train up to ``max_steps`` in total, or for a number of epochs.

        A model in eval mode is put in train mode; one in train mode keeps the modules that you froze with
        ``module.eval()``. SIGTERM ends the run after the current step.

        Args:
            max_steps: Total number of steps, counted from the start of the run, also when resumed.
            epochs: Alternative to ``max_steps``.
            epoch_length: An epoch ends when the "longest" dataset was seen once (shorter ones start over,
                reshuffled), or the "shortest".
            resume: Continue from the newest checkpoint in ``run_dir``, if there is one.

        Raises:
            NonFiniteLossError: If a loss or gradient is NaN or infinite; the last checkpoint is kept.
            SystemExit: With code 143 after SIGTERM to any process, when the checkpoint is written.
            ConfigError: If not exactly one of ``max_steps`` and ``epochs`` is a positive number, the learning
                rate was scheduled for another number, or ``run_dir`` holds another run's checkpoints.
            DataError: If a loader is empty or a batch malformed.
            CheckpointError: If a checkpoint cannot be written, or the newest cannot be resumed.
            ProcessError: If a step, saving or resuming failed in another process.
        """
        steps = total_steps(
            self.loaders, self.step, max_steps=max_steps, epochs=epochs, epoch_length=epoch_length
        )
        self._stopping = False
        latest = self._latest_checkpoint()
        facts = {"datasets": list(self.loaders.weights), "number of steps": steps, "checkpoint": latest}
        check_agreement(facts)
        if latest is not None and self.step == 0 and not resume:
            raise ConfigError(f"{latest} is of another run; pass resume=True, or take another run_dir")
        self._run.schedule(steps, self._scheduler_factory)
        if resume and latest is not None:
            agreed(partial(self._run.resume, latest))
        self._stepper.relist()
        if not self.model.training:
            self.model.train()
        with catch_sigterm() as stop, ExitStack() as endings:
            for callback in self.callbacks:
                callback.on_fit_start(self)
                endings.callback(callback.on_fit_end, self)
            while self.step < self.max_steps and not self._asked_to_stop(stop):
                losses = self._stepper.make(self.loaders.draw)
                for callback in self.callbacks:
                    callback.on_step_end(self, losses)
                if self.options.checkpoint_every and self.step % self.options.checkpoint_every == 0:
                    self.save_checkpoint()
            if self.run_dir is not None and self._run.saved_step != self.step:
                self.save_checkpoint()
        if any_process(stop.received):
            raise SystemExit(SIGTERM_EXIT)

    def stop(self) -> None:
        """End the running `fit` after the current step, as a callback may want; a later `fit` goes on."""
        self._stopping = True

    def train_step(self, draws: Sequence[Draw]) -> dict[str, float]:
        """Make one step with this process's batches; return the mean unweighted loss of each dataset.

        The modes of the model are the caller's, and the learning rate is constant before the first `fit`.

        Raises:
            NonFiniteLossError: If a loss or gradient is NaN or infinite.
            DataError: If a batch is malformed.
            FusedForwardError: If ``backward="fused"`` does not fit the model or the batches.
            ProcessError: If another process failed before the gradient was exchanged.
        """
        return self._stepper.make(lambda: draws)

    @property
    def model(self) -> nn.Module:
        """The dataset-aware model; trained in place."""
        return self._run.model

    @property
    def ema(self) -> ModelAverage | None:
        """Exponential moving average of the model (its ``module``), or None."""
        return self._run.ema

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""
        return self._run.optimizer

    @property
    def scheduler(self) -> LRScheduler | None:
        """The learning-rate schedule, made by the first `fit`; None for a constant rate."""
        return self._run.scheduler

    @property
    def loaders(self) -> AlternatingLoaders:
        """What the steps draw from."""
        return self._run.loaders

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return self._run.step

    @property
    def max_steps(self) -> int:
        """Step at which the current `fit` ends."""
        return self._run.max_steps

    @property
    def run_dir(self) -> Path | None:
        """Where checkpoints are written, in the folder "checkpoints"."""
        return self.options.run_dir

    @property
    def trained_model(self) -> nn.Module:
        """What is evaluated: the average of the model if there is one, else the model."""
        return self.model if self.ema is None else self.ema.module

    def evaluate(self, loaders: Mapping[str, Iterable[Any]]) -> dict[str, SegmentationResult]:
        """Measure segmentation on one loader per dataset, with the averaged weights if there are any.

        Several processes pool their running statistics first, and each measures a part of the images.

        Args:
            loaders: Evaluation loaders by dataset name; class names are read from ``loader.source`` or
                ``loader.dataset`` if these have any, else the outputs of the dataset's own classifier are
                numbered.

        Returns:
            mIoU, IoU per class and pixel accuracy of each dataset.
        """
        sync_batch_norm_buffers(self.trained_model)
        metrics = {name: metric_for(self.trained_model, name, loader) for name, loader in loaders.items()}
        parts = {name: shard(name, loader, training=False) for name, loader in loaders.items()}
        device = self.accelerator.device
        results = evaluate_datasets(self.trained_model, parts, device, metrics=metrics)
        for callback in self.callbacks:
            callback.on_evaluate_end(self, results)
        return results

    def save_checkpoint(self) -> Path:
        """Write a checkpoint of the current step to ``run_dir`` and return its folder.

        Several processes pool their running statistics first, and the main one writes.

        Raises:
            ConfigError: If the trainer has no ``run_dir``.
            CheckpointError: If it cannot be written; older checkpoints stay.
            ProcessError: If the main process could not write it.
        """
        if self.options.checkpoints is None:
            raise ConfigError("checkpoints need run_dir")
        return self._run.save(self.options.checkpoints, self.options.keep)

    def _latest_checkpoint(self) -> Path | None:
        folder = self.options.checkpoints
        return latest_checkpoint(folder) if folder is not None else None

    def _asked_to_stop(self, stop: StopRequest) -> bool:
        return any_process(stop.received or self._stopping)
