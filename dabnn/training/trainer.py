"""Dataset Alternation Training for any task: N forwards, one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dabnn.errors import CheckpointError, ConfigError, NonFiniteLossError
from dabnn.evaluation import SegmentationMetric, SegmentationResult, evaluate_model
from dabnn.selection import dataset_names, find_selection, use_dataset
from dabnn.training.batch import Draw, LossFunction, cross_entropy
from dabnn.training.callbacks import Callback
from dabnn.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from dabnn.training.loaders import AlternatingLoaders, EpochLength
from dabnn.training.recipe import poly, sgd
from dabnn.training.signals import catch_sigterm
from dabnn.training.step import BACKWARD, AlternationStep, BackwardMode, check_fused

SchedulerFactory = Callable[[Optimizer, int], LRScheduler]
SIGTERM_EXIT = 143


class AlternationTrainer:
    """Trains one dataset-aware model on several datasets at once.

    Each step draws a batch of every dataset, sums the losses and makes one optimizer step (Section 3.2,
    Dataset Alternation Training). Left alone it follows the paper: cross-entropy, SGD with momentum 0.9
    and weight decay 1e-4, polynomial decay with power 0.9.

    Attributes:
        model: The dataset-aware model; trained in place.
        ema: Exponential moving average of the model, or None.
        optimizer: The optimizer.
        step: Number of finished steps.
        max_steps: Step at which the current `fit` ends.

    Example:
        >>> trainer = AlternationTrainer(model, {"cityscapes": loader_a, "camvid": loader_b})  # doctest: +SKIP
        >>> trainer.fit(max_steps=40_000)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        loaders: Mapping[str, Iterable[Any]],
        *,
        optimizer: Optimizer | None = None,
        loss: LossFunction | Mapping[str, LossFunction] = cross_entropy,
        scheduler: SchedulerFactory | None = None,
        backward: BackwardMode = "per_dataset",
        update: Literal["alternation", "dataset"] = "alternation",
        weights: Mapping[str, float] | None = None,
        ratios: Mapping[str, int] | None = None,
        precision: Literal["no", "bf16", "fp16"] = "no",
        clip_norm: float | None = None,
        channels_last: bool = False,
        ema_decay: float | None = None,
        activation_checkpointing: bool = False,
        callbacks: Sequence[Callback] = (),
        run_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
    ) -> None:
        """Check everything that can be checked before training.

        Args:
            model: A converted model. It is moved to the accelerator's device.
            loaders: One iterable of batches per dataset, by name; a batch is ``(inputs, target)`` or a
                mapping with "image" and "mask".
            optimizer: Over all trainable parameters; default the paper's SGD with learning rate 0.01.
            loss: ``loss(output, batch)`` -> scalar tensor, one for all datasets or one each.
            scheduler: ``scheduler(optimizer, max_steps)``, stepped once per step; default the paper's
                polynomial decay with the default optimizer, a constant rate with your own.
            backward: How the gradient is computed, see `dabnn.training.step`; all ways are exact.
            update: "alternation" makes one optimizer step for the sum of all losses, "dataset" one after
                each batch: the paper's ablation without DAT (Table 3).
            weights: Loss weights w_i of Eq. 3, by dataset; default 1.
            ratios: Batches per step, by dataset; default 1.
            precision: Mixed precision of the forward passes.
            clip_norm: Largest norm of the summed gradient.
            channels_last: Use the channels-last memory format.
            ema_decay: Keep an average of the weights with this decay, and evaluate it.
            activation_checkpointing: Trade time for memory with the model's own ``set_grad_checkpointing``.
            callbacks: See `dabnn.training.callbacks`.
            run_dir: Where checkpoints are written.
            checkpoint_every: Steps between checkpoints; there is also one at the end and on SIGTERM.

        Raises:
            ConfigError: If names do not match, arguments contradict each other, or a trainable parameter is
                missing from the optimizer.
            NotDatasetAwareError: If the model was not converted.
        """
        self.model = model
        self._check(loaders, backward, update, checkpoint_every, run_dir, activation_checkpointing)
        losses = loss if isinstance(loss, Mapping) else dict.fromkeys(loaders, loss)
        if set(losses) != set(loaders):
            raise ConfigError(f"losses are given for {sorted(losses)}, loaders for {sorted(loaders)}")
        self.loaders = AlternatingLoaders(loaders, weights, ratios)
        if optimizer is None:
            optimizer, scheduler = sgd(model), scheduler or poly
        _check_optimizer(model, optimizer)
        if activation_checkpointing:
            _checkpoint_activations(model)
        if channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.accelerator = _accelerator(precision)
        step = AlternationStep(model, losses)
        self._step, self.optimizer = self.accelerator.prepare(step, optimizer)
        self.ema = ModelEmaV3(model, decay=ema_decay) if ema_decay is not None else None
        self.backward, self.update = backward, update
        self.clip_norm, self.channels_last = clip_norm, channels_last
        self.callbacks = list(callbacks)
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.checkpoint_every = checkpoint_every
        self.step = self.max_steps = 0
        self._scheduler_factory = scheduler
        self.scheduler: LRScheduler | None = None

    def fit(
        self,
        max_steps: int | None = None,
        *,
        epochs: int | None = None,
        epoch_length: EpochLength = "longest",
        resume: bool = False,
    ) -> None:
        """Train up to ``max_steps`` in total, or for a number of epochs.

        Args:
            max_steps: Total number of steps, counted from the start of the run, also when resumed.
            epochs: Alternative to ``max_steps``.
            epoch_length: An epoch ends when the "longest" dataset was seen once (shorter ones start over,
                reshuffled), or the "shortest".
            resume: Continue from the newest checkpoint in ``run_dir``, if there is one.

        Raises:
            NonFiniteLossError: If a loss is NaN or infinite; the last checkpoint is kept.
            SystemExit: With code 143 after SIGTERM, when the checkpoint is written.
            ConfigError: If not exactly one of ``max_steps`` and ``epochs`` is a positive number.
            DataError: If a loader is empty or a batch malformed.
        """
        self.max_steps = self._resolve_steps(max_steps, epochs, epoch_length)
        if self._scheduler_factory is not None:
            self.scheduler = self._scheduler_factory(self.optimizer.optimizer, self.max_steps)
        if resume:
            self._resume()
        self.model.train()
        with catch_sigterm() as stop:
            try:
                for callback in self.callbacks:
                    callback.on_fit_start(self)
                while self.step < self.max_steps and not stop.received:
                    losses = self.train_step(self.loaders.draw())
                    for callback in self.callbacks:
                        callback.on_step_end(self, losses)
                    if self.checkpoint_every and self.step % self.checkpoint_every == 0:
                        self.save_checkpoint()
            finally:
                for callback in self.callbacks:
                    callback.on_fit_end(self)
            if self.run_dir is not None:
                self.save_checkpoint()
            if stop.received:
                raise SystemExit(SIGTERM_EXIT)

    def train_step(self, draws: Sequence[Draw]) -> dict[str, float]:
        """Make one step with the given batches and return the mean unweighted loss of each dataset."""
        draws = [Draw(d.dataset, self._to_device(d.batch), d.weight) for d in draws]
        if self.backward == "fused":
            check_fused(self.model)
        groups = [draws] if self.update == "alternation" else [[draw] for draw in draws]
        losses = [loss for group in groups for loss in self._optimize(group)]
        if self.scheduler is not None and not self.optimizer.step_was_skipped:
            self.scheduler.step()
        if self.ema is not None:
            self.ema.update(self.model)
        self.step += 1
        return _mean_by_dataset(draws, losses)

    def evaluate(self, loaders: Mapping[str, Iterable[Any]]) -> dict[str, SegmentationResult]:
        """Measure segmentation on one loader per dataset, with the averaged weights if there are any.

        Args:
            loaders: Evaluation loaders by dataset name; classes are read from ``loader.source`` or
                ``loader.dataset`` if these have any, else they are numbered.

        Returns:
            mIoU, IoU per class and pixel accuracy of each dataset.
        """
        model = self.model if self.ema is None else self.ema.module
        results = {}
        for name, loader in loaders.items():
            with use_dataset(model, name):
                results[name] = evaluate_model(model, loader, _metric_for(name, loader), self.accelerator.device)
        for callback in self.callbacks:
            callback.on_evaluate_end(self, results)
        return results

    def save_checkpoint(self) -> Path:
        """Write a checkpoint of the current step to ``run_dir`` and return its folder.

        Raises:
            ConfigError: If the trainer has no ``run_dir``.
            CheckpointError: If it cannot be written; older checkpoints stay.
        """
        if self.run_dir is None:
            raise ConfigError("checkpoints need run_dir")
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "dataset_names": list(dataset_names(self.model)),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": scaler.state_dict() if scaler else None,
            "loaders": self.loaders.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        return save_checkpoint(self._checkpoint_dir, self.step, self._modules, state)

    def _resume(self) -> None:
        path = latest_checkpoint(self._checkpoint_dir) if self.run_dir else None
        if path is None:
            return
        state = load_checkpoint(path, self._modules)
        names = list(dataset_names(self.model))
        if state["dataset_names"] != names:
            raise CheckpointError(f"{path} was trained for {state['dataset_names']}, the model is for {names}")
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None and state["scheduler"]:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.loaders.load_state_dict(state["loaders"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def _optimize(self, draws: Sequence[Draw]) -> list[Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        losses = BACKWARD[self.backward](self._step, draws, self.accelerator.backward)
        for draw, loss in zip(draws, losses, strict=True):
            if not math.isfinite(loss.item()):
                self.optimizer.zero_grad(set_to_none=True)
                last = latest_checkpoint(self._checkpoint_dir) if self.run_dir else None
                raise NonFiniteLossError(
                    f"the loss of dataset {draw.dataset!r} is {loss.item()} at step {self.step}; no optimizer step "
                    f"was made with it. Last checkpoint: {last}. Lower the learning rate, clip the gradient "
                    "(clip_norm), or look at that dataset's batch"
                )
        if self.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self._step.parameters(), self.clip_norm)
        self.optimizer.step()
        return losses

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model} | ({"ema": self.ema.module} if self.ema is not None else {})

    @property
    def _checkpoint_dir(self) -> Path:
        return (self.run_dir or Path()) / "checkpoints"

    def _to_device(self, batch: Any) -> Any:
        batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
        if not self.channels_last:
            return batch
        if isinstance(batch, Mapping):
            return {**batch, "image": batch["image"].contiguous(memory_format=torch.channels_last)}
        return (batch[0].contiguous(memory_format=torch.channels_last), *batch[1:])

    def _resolve_steps(self, max_steps: int | None, epochs: int | None, epoch_length: EpochLength) -> int:
        if (max_steps is None) == (epochs is None):
            raise ConfigError("give either max_steps or epochs")
        steps = max_steps if epochs is None else epochs * self.loaders.steps_per_epoch(epoch_length)
        if not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"the number of steps must be positive, got {steps!r}")
        return steps

    def _check(
        self,
        loaders: Mapping[str, Any],
        backward: str,
        update: str,
        checkpoint_every: int | None,
        run_dir: str | Path | None,
        activation_checkpointing: bool,
    ) -> None:
        selection = find_selection(self.model)
        if not loaders:
            raise ConfigError(f"no loaders were given; the model knows {list(selection.names)}")
        for name in loaders:
            selection.index(name)
        if backward not in BACKWARD:
            raise ConfigError(f"backward must be one of {list(BACKWARD)}, got {backward!r}")
        if update not in ("alternation", "dataset"):
            raise ConfigError(f"update must be 'alternation' or 'dataset', got {update!r}")
        if activation_checkpointing and backward == "joint":
            raise ConfigError(
                "activation checkpointing recomputes forwards during the one joint backward, when their datasets "
                "are no longer active; use backward='per_dataset'"
            )
        if checkpoint_every is not None and run_dir is None:
            raise ConfigError("checkpoint_every needs run_dir")


def _accelerator(precision: str) -> Accelerator:
    # Accelerate keeps the precision process-wide and refuses another one: a second trainer may differ.
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != precision:
        AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision)
    if accelerator.num_processes > 1:
        raise ConfigError("training in several processes is not supported in this version; start one process")
    return accelerator


def _check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    if missing:
        raise ConfigError(
            f"{len(missing)} trainable parameters are not in the optimizer, first {missing[0]!r}; convert the model "
            "before building the optimizer, or freeze them with requires_grad_(False)"
        )


def _checkpoint_activations(model: nn.Module) -> None:
    setters = [m for m in (model, getattr(model, "encoder", None), getattr(getattr(model, "encoder", None), "model", None))]
    for module in setters:
        if hasattr(module, "set_grad_checkpointing"):
            module.set_grad_checkpointing(True)  # type: ignore[union-attr, operator]
            return
    raise ConfigError(f"{type(model).__name__} has no set_grad_checkpointing; wrap its layers in torch.utils.checkpoint")


def _metric_for(name: str, loader: Any) -> SegmentationMetric:
    dataset = getattr(loader, "source", None) or getattr(loader, "dataset", None)
    classes = getattr(dataset, "classes", None)
    if classes is None:
        raise ConfigError(
            f"the evaluation loader of dataset {name!r} does not tell its classes: give its dataset an attribute "
            "'classes', or use dabnn.evaluation.evaluate_model with a metric of your own"
        )
    return SegmentationMetric(classes, getattr(dataset, "ignore_index", 255))


def _mean_by_dataset(draws: Sequence[Draw], losses: Sequence[Tensor]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for draw, loss in zip(draws, losses, strict=True):
        values.setdefault(draw.dataset, []).append(loss.item())
    return {name: sum(items) / len(items) for name, items in values.items()}
