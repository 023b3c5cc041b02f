"""Dataset Alternation Training for any task: N forwards, one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, Literal

import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dabnn.branches.calibrate import sync_batch_norm_buffers
from dabnn.errors import CheckpointError, ConfigError, DataError, NonFiniteLossError
from dabnn.evaluation import SegmentationResult
from dabnn.evaluation.datasets import evaluate_datasets, metric_for
from dabnn.selection import dataset_names
from dabnn.training import state
from dabnn.training.batch import Draw, LossFunction, cross_entropy, to_channels_last
from dabnn.training.callbacks import Callback, ProgressBar
from dabnn.training.checkpoint import (
    checkpoint_path,
    latest_checkpoint,
    load_weights,
    read_state,
    save_checkpoint,
)
from dabnn.training.ema import ModelAverage
from dabnn.training.fused import check_fused
from dabnn.training.loaders import AlternatingLoaders, EpochLength
from dabnn.training.mixed import STREAM, MixedLoader
from dabnn.training.prepare import (
    check_loaders,
    check_mixed,
    check_optimizer,
    check_options,
    checkpoint_activations,
    losses_by_dataset,
    make_accelerator,
    prepare_step,
)
from dabnn.training.processes import agreed, any_process, check_agreement, mean_losses, shard
from dabnn.training.recipe import poly, sgd
from dabnn.training.signals import StopRequest, catch_sigterm
from dabnn.training.step import BACKWARD, AlternationStep, BackwardMode
from dabnn.training.update import update_weights

SchedulerFactory = Callable[[Optimizer, int], LRScheduler]
SIGTERM_EXIT = 143


class AlternationTrainer:
    """Trains one dataset-aware model on several datasets at once.

    Each step draws a batch of every dataset, sums the losses and makes one optimizer step (Section 3.2,
    Dataset Alternation Training). Left alone it follows the paper: cross-entropy, SGD with momentum 0.9
    and weight decay 1e-4, polynomial decay with power 0.9.

    Attributes:
        model: The dataset-aware model; trained in place.
        ema: Exponential moving average of the model (its ``module``), or None.
        optimizer: The optimizer.
        scheduler: The learning-rate schedule, made by the first `fit`; None for a constant rate.
        step: Number of finished steps.
        max_steps: Step at which the current `fit` ends.

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
        update: Literal["alternation", "dataset", "shuffled"] = "alternation",
        weights: Mapping[str, float] | None = None,
        ratios: Mapping[str, int] | None = None,
        precision: Literal["no", "bf16", "fp16"] = "no",
        clip_norm: float | None = None,
        channels_last: bool = False,
        ema_decay: float | None = None,
        activation_checkpointing: bool = False,
        callbacks: Sequence[Callback] | None = None,
        run_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
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

        Raises:
            ConfigError: If names do not match, arguments contradict each other, or a trainable parameter is
                missing from the optimizer.
            UnknownDatasetError: If a loader is given for a dataset that the model does not know.
            NotDatasetAwareError: If the model was not converted.
        """
        check_options(
            backward=backward,
            update=update,
            precision=precision,
            clip_norm=clip_norm,
            ema_decay=ema_decay,
            run_dir=run_dir,
            checkpoint_every=checkpoint_every,
            activation_checkpointing=activation_checkpointing,
        )
        names = dataset_names(model)
        if isinstance(loaders, Mapping):
            check_loaders(model, loaders)
        losses = losses_by_dataset(loss, loaders if isinstance(loaders, Mapping) else names)
        if optimizer is None:
            optimizer, scheduler = sgd(model), scheduler or poly
        check_optimizer(model, optimizer)
        self.accelerator = make_accelerator(precision)
        self.loaders: AlternatingLoaders
        if isinstance(loaders, Mapping):
            parts = {name: shard(name, loader, training=True) for name, loader in loaders.items()}
            self.loaders = AlternatingLoaders(parts, weights, ratios)
        else:
            check_mixed(update)
            part = shard(STREAM, loaders, training=True)
            self.loaders = MixedLoader(part, names, weights, ratios)
        if activation_checkpointing:
            checkpoint_activations(model)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        self.model = model
        # Only the step is prepared: Accelerate's optimizer wrapper would hide steps from the scheduler.
        self._step = prepare_step(self.accelerator, AlternationStep(model, losses))
        self.ema = ModelAverage(model, ema_decay) if ema_decay is not None else None
        self.optimizer = optimizer
        self.scheduler: LRScheduler | None = None
        self._scheduler_factory = scheduler
        self.backward, self.update = backward, update
        self.clip_norm, self.channels_last = clip_norm, channels_last
        callbacks = [ProgressBar()] if callbacks is None else callbacks
        main = self.accelerator.is_main_process
        self.callbacks = [callback for callback in callbacks if main or not callback.main_process_only]
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.checkpoint_every = checkpoint_every
        self.step = self.max_steps = 0
        self._saved_step: int | None = None
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
            ProcessError: If reading data, saving or resuming failed in another process.
        """
        steps = self._resolve_steps(max_steps, epochs, epoch_length)
        self._stopping = False
        latest = self._latest_checkpoint()
        facts = {"datasets": list(self.loaders.weights), "number of steps": steps, "checkpoint": latest}
        check_agreement(facts)
        if latest is not None and self.step == 0 and not resume:
            raise ConfigError(f"{latest} is of another run; pass resume=True, or take another run_dir")
        self._schedule(steps)
        if resume and latest is not None:
            agreed(partial(self._resume, latest))
        if not self.model.training:
            self.model.train()
        with catch_sigterm() as stop, ExitStack() as endings:
            for callback in self.callbacks:
                callback.on_fit_start(self)
                endings.callback(callback.on_fit_end, self)
            while self.step < self.max_steps and not self._asked_to_stop(stop):
                losses = self.train_step(agreed(self.loaders.draw))
                for callback in self.callbacks:
                    callback.on_step_end(self, losses)
                if self.checkpoint_every and self.step % self.checkpoint_every == 0:
                    self.save_checkpoint()
            if self.run_dir is not None and self._saved_step != self.step:
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
        """
        draws = [replace(draw, batch=self._to_device(draw.batch)) for draw in draws]
        if self.backward == "fused":
            check_fused(self.model)
        groups = [draws] if self.update == "alternation" else [[draw] for draw in draws]
        if self.update == "shuffled":
            Random(self.step).shuffle(groups)  # the same order in every process, and after resuming
        losses: dict[str, list[float]] = {}
        updated = False
        for group in groups:
            try:
                means = self._compute_gradient(group)
                updated |= update_weights(self.model, self.optimizer, self.accelerator.scaler, self.clip_norm)
            except NonFiniteLossError as error:
                self.optimizer.zero_grad(set_to_none=True)
                raise NonFiniteLossError(
                    f"{error} in step {self.step + 1}; no optimizer step was made with it. Last checkpoint: "
                    f"{self._latest_checkpoint()}. Lower the learning rate, clip the gradient (clip_norm), "
                    "or look at the batches of that step"
                ) from None
            for name, loss in means.items():
                losses.setdefault(name, []).append(loss)
        if self.scheduler is not None and updated:
            self.scheduler.step()
        if self.ema is not None:
            self.ema.update(self.model)
        self.step += 1
        return {name: fmean(losses[name]) for name in self.loaders.weights if name in losses}

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
        if self.run_dir is None:
            raise ConfigError("checkpoints need run_dir")
        for module in self._modules.values():
            sync_batch_norm_buffers(module)
        path, captured = checkpoint_path(self.run_dir / "checkpoints", self.step), state.capture(self)
        write = partial(save_checkpoint, path, self._modules, captured)
        agreed(write, main_only=True)
        self._saved_step = self.step
        return path

    def _resume(self, path: Path) -> None:
        saved = read_state(path)
        try:
            state.check(self, saved)
        except CheckpointError as error:
            raise CheckpointError(f"cannot resume {path}: {error}") from error
        load_weights(path, self._modules)
        state.restore(self, saved)
        self._saved_step = self.step

    def _compute_gradient(self, draws: Sequence[Draw]) -> dict[str, float]:
        """Replace the gradient by that of the draws' weighted sum; return each dataset's mean loss."""
        self.optimizer.zero_grad(set_to_none=True)  # None, or weight decay would move the other datasets
        try:
            losses = BACKWARD[self.backward](self._step, draws, self.accelerator.backward)
        except DataError as error:
            raise DataError(f"in step {self.step + 1}, {error}") from error
        values = [(draw.dataset, loss.item()) for draw, loss in zip(draws, losses, strict=True)]
        means = mean_losses(self.loaders.weights, values)
        for name, value in means.items():
            if not math.isfinite(value):
                raise NonFiniteLossError(f"the loss of dataset {name!r} is {value}")
        return means

    def _schedule(self, steps: int) -> None:
        if self.scheduler is not None and steps != self.max_steps:
            raise ConfigError(
                f"the learning rate is scheduled over {self.max_steps} steps, so fit cannot go to {steps}; "
                "make a new trainer"
            )
        if self.scheduler is None and self._scheduler_factory is not None:
            self.scheduler = self._scheduler_factory(self.optimizer, steps)
        self.max_steps = steps

    def _resolve_steps(self, max_steps: int | None, epochs: int | None, epoch_length: EpochLength) -> int:
        if (max_steps is None) == (epochs is None):
            raise ConfigError("give either max_steps or epochs")
        steps = max_steps if epochs is None else epochs * self.loaders.steps_per_epoch(epoch_length)
        if not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"the number of steps must be a positive integer, got {steps!r}")
        if steps < self.step:
            raise ConfigError(
                f"{steps} steps in total are fewer than the {self.step} already made; max_steps counts from "
                "the start of the run"
            )
        return steps

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model} | ({"ema": self.ema.module} if self.ema is not None else {})

    def _latest_checkpoint(self) -> Path | None:
        return latest_checkpoint(self.run_dir / "checkpoints") if self.run_dir is not None else None

    def _asked_to_stop(self, stop: StopRequest) -> bool:
        return any_process(stop.received or self._stopping)

    def _to_device(self, batch: Any) -> Any:
        batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
        return to_channels_last(batch) if self.channels_last else batch
