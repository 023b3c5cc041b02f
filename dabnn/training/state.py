"""The state of a run: all that a checkpoint holds, and a resumed run goes on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dabnn.branches.calibrate import sync_batch_norm_buffers
from dabnn.errors import CheckpointError, ConfigError
from dabnn.selection import dataset_names
from dabnn.training.checkpoint import checkpoint_path, load_weights, read_state, save_checkpoint
from dabnn.training.ema import ModelAverage
from dabnn.training.loaders import AlternatingLoaders
from dabnn.training.options import UpdateMode
from dabnn.training.processes import agreed, gathered, processes

SchedulerFactory = Callable[[Optimizer, int], LRScheduler]


@dataclass
class RunState:
    """What changes during a run, and the settings that its steps depend on.

    Attributes:
        model: The dataset-aware model.
        ema: Its average, or None.
        loaders: Know their positions.
        optimizer: The optimizer.
        scaler: The loss scale of fp16, or None.
        update: After what an optimizer step is made.
        scheduler: The learning-rate schedule, or None for a constant rate.
        step: Number of finished steps.
        max_steps: Step at which the run ends.
        saved_step: Step of the last checkpoint that was written or resumed from, or None.
    """

    model: nn.Module
    ema: ModelAverage | None
    loaders: AlternatingLoaders
    optimizer: Optimizer
    scaler: torch.amp.GradScaler | None
    update: UpdateMode
    scheduler: LRScheduler | None = None
    step: int = 0
    max_steps: int = 0
    saved_step: int | None = None

    @property
    def saved_modules(self) -> dict[str, nn.Module]:
        """The modules whose weights a checkpoint holds, by file name."""
        return {"model": self.model} | ({"ema": self.ema.module} if self.ema is not None else {})

    @property
    def scheduled_steps(self) -> int | None:
        """The number of steps that the learning rate is scheduled over."""
        return self.max_steps if self.scheduler is not None else None

    @property
    def settings(self) -> dict[str, Any]:
        """What a resumed run must share with the first for its steps to go on as they were."""
        return {
            "optimizer": type(self.optimizer).__name__,
            "update": self.update,
            "weights": self.loaders.weights,
            "ratios": self.loaders.ratios,
            "ema_decay": self.ema.decay if self.ema is not None else None,
        }

    def schedule(self, steps: int, factory: SchedulerFactory | None) -> None:
        """Set the number of steps, and the learning-rate schedule unless there is one.

        Raises:
            ConfigError: If there is one, over another number of steps.
        """
        if self.scheduler is not None and steps != self.max_steps:
            raise ConfigError(
                f"the learning rate is scheduled over {self.max_steps} steps, so fit cannot go to {steps}; "
                "make a new trainer"
            )
        if self.scheduler is None and factory is not None:
            self.scheduler = factory(self.optimizer, steps)
        self.max_steps = steps

    def state_dict(self) -> dict[str, Any]:
        """Return step, optimizer, schedule, loss scale, loader positions and random state: all but weights.

        Every process has to call this: each has a position and a random state of its own.
        """
        own = {
            "loaders": self.loaders.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        return {
            "step": self.step,
            "dataset_names": list(dataset_names(self.model)),
            "settings": self.settings,
            "scheduled_steps": self.scheduled_steps,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "processes": gathered(own),
        }

    def check(self, state: dict[str, Any]) -> None:
        """Check that a state dict belongs to this run; nothing is changed.

        Raises:
            CheckpointError: If the datasets, what a step does, or the length of the schedule differ.
        """
        names = list(dataset_names(self.model))
        if state["dataset_names"] != names:
            raise CheckpointError(
                f"the checkpoint was trained for the datasets {state['dataset_names']}, the model is for "
                f"{names}"
            )
        count = processes().num_processes
        if len(state["processes"]) != count:
            raise CheckpointError(
                f"the checkpoint is of {len(state['processes'])} processes, this run has {count}; start as "
                "many, or a new run from the weights"
            )
        trained, streams = sorted(state["processes"][0]["loaders"]), sorted(self.loaders.streams)
        if trained != streams:
            raise CheckpointError(f"the checkpoint was trained on {trained}, the loaders are for {streams}")
        for name, value in self.settings.items():
            if state["settings"][name] != value:
                raise CheckpointError(
                    f"the checkpoint has {name}={state['settings'][name]!r}, this run {name}={value!r}; "
                    "resume with the same settings, or start a new run from the weights"
                )
        if state["scheduled_steps"] != self.scheduled_steps:
            raise CheckpointError(
                f"the checkpoint's learning rate is scheduled over {state['scheduled_steps']} steps, this "
                f"run's over {self.scheduled_steps}; resume with the same schedule, or start a new run from "
                "the weights"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state dict that passed `check`."""
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        own = state["processes"][processes().process_index]
        self.loaders.load_state_dict(own["loaders"])
        torch.set_rng_state(own["rng"])
        if own["cuda_rng"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["cuda_rng"])

    def save(self, folder: Path, keep: int) -> Path:
        """Write a checkpoint below ``folder``, where the ``keep`` newest stay; return where it is.

        Several processes pool their running statistics first, and the main one writes.

        Raises:
            CheckpointError: If it cannot be written; older checkpoints stay.
            ProcessError: If the main process could not write it.
        """
        for module in self.saved_modules.values():
            sync_batch_norm_buffers(module)
        path, state = checkpoint_path(folder, self.step), self.state_dict()
        agreed(partial(save_checkpoint, path, self.saved_modules, state, keep=keep), main_only=True)
        self.saved_step = self.step
        return path

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, once all of it is seen to fit.

        Raises:
            CheckpointError: If it is damaged, or of another run.
        """
        saved = read_state(path)
        try:
            self.check(saved)
        except CheckpointError as error:
            raise CheckpointError(f"cannot resume {path}: {error}") from error
        load_weights(path, self.saved_modules)
        self.load_state_dict(saved)
        self.saved_step = self.step
