"""All of a run but its weights: what a checkpoint holds besides the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from dabnn.errors import CheckpointError
from dabnn.selection import dataset_names

if TYPE_CHECKING:
    from dabnn.training.trainer import AlternationTrainer


def capture(trainer: AlternationTrainer) -> dict[str, Any]:
    """Return step, optimizer, schedule, loss scale, loader positions and random state of a trainer.

    Every process has to call this: each has a position and a random state of its own.
    """
    scaler = trainer.accelerator.scaler
    own = {
        "loaders": trainer.loaders.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
    return {
        "step": trainer.step,
        "dataset_names": list(dataset_names(trainer.model)),
        "settings": _settings(trainer),
        "scheduled_steps": trainer.max_steps if trainer.scheduler else None,
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict() if trainer.scheduler else None,
        "scaler": scaler.state_dict() if scaler else None,
        "processes": gather_object([own]),
    }


def check(trainer: AlternationTrainer, state: dict[str, Any]) -> None:
    """Check that a state belongs to the run that a trainer is set up for; nothing is changed.

    Raises:
        CheckpointError: If the datasets, what a step does, or the length of the schedule differ.
    """
    names = list(dataset_names(trainer.model))
    if state["dataset_names"] != names:
        raise CheckpointError(
            f"the checkpoint was trained for the datasets {state['dataset_names']}, the model is for {names}"
        )
    if len(state["processes"]) != trainer.accelerator.num_processes:
        raise CheckpointError(
            f"the checkpoint is of {len(state['processes'])} processes, this run has "
            f"{trainer.accelerator.num_processes}; start as many, or a new run from the weights"
        )
    trained = sorted(state["processes"][0]["loaders"])
    if trained != sorted(trainer.loaders.streams):
        raise CheckpointError(
            f"the checkpoint was trained on {trained}, the loaders are for {sorted(trainer.loaders.streams)}"
        )
    for name, value in _settings(trainer).items():
        if state["settings"][name] != value:
            raise CheckpointError(
                f"the checkpoint has {name}={state['settings'][name]!r}, this run {name}={value!r}; "
                "resume with the same settings, or start a new run from the weights"
            )
    scheduled = trainer.max_steps if trainer.scheduler else None
    if state["scheduled_steps"] != scheduled:
        raise CheckpointError(
            f"the checkpoint's learning rate is scheduled over {state['scheduled_steps']} steps, this run's "
            f"over {scheduled}; resume with the same schedule, or start a new run from the weights"
        )


def _settings(trainer: AlternationTrainer) -> dict[str, Any]:
    """What a resumed run must share with the first for its steps to go on as they were."""
    return {
        "optimizer": type(trainer.optimizer).__name__,
        "update": trainer.update,
        "weights": trainer.loaders.weights,
        "ratios": trainer.loaders.ratios,
        "ema_decay": trainer.ema.decay if trainer.ema is not None else None,
    }


def restore(trainer: AlternationTrainer, state: dict[str, Any]) -> None:
    """Put a state that passed `check` into the trainer."""
    trainer.step = state["step"]
    trainer.optimizer.load_state_dict(state["optimizer"])
    if trainer.scheduler is not None:
        trainer.scheduler.load_state_dict(state["scheduler"])
    if trainer.accelerator.scaler is not None and state["scaler"]:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    own = state["processes"][trainer.accelerator.process_index]
    trainer.loaders.load_state_dict(own["loaders"])
    torch.set_rng_state(own["rng"])
    if own["cuda_rng"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda_rng"])
