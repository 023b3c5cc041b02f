"""The options of the trainer and what they may be; an options object that exists is one that makes sense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from dabnn.errors import ConfigError

BackwardMode = Literal["per_dataset", "joint", "fused", "mixed"]
"""How the gradient is computed, see `dabnn.training.step`."""
UpdateMode = Literal["alternation", "dataset", "shuffled"]
"""After what an optimizer step is made: all batches, or each of them, in order or shuffled."""
Precision = Literal["no", "bf16", "fp16"]
"""What forwards are computed in."""
EpochLength = Literal["longest", "shortest"]
"""Which dataset ends an epoch."""


@dataclass(frozen=True)
class TrainerOptions:
    """What `dabnn.AlternationTrainer` is told besides model, data, losses and optimizer; see there.

    Raises:
        ConfigError: If a value is out of range, or two contradict each other.
    """

    backward: BackwardMode
    update: UpdateMode
    precision: Precision
    clip_norm: float | None
    channels_last: bool
    ema_decay: float | None
    activation_checkpointing: bool
    run_dir: Path | None
    checkpoint_every: int | None
    keep: int

    def __post_init__(self) -> None:
        """Check every option."""
        check_choice("backward", self.backward, BackwardMode)
        check_choice("update", self.update, UpdateMode)
        check_choice("precision", self.precision, Precision)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip_norm must be positive, got {self.clip_norm!r}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must be in [0, 1), got {self.ema_decay!r}")
        if self.checkpoint_every is not None and (self.run_dir is None or self.checkpoint_every < 1):
            raise ConfigError(
                f"checkpoint_every={self.checkpoint_every!r} must be positive, and needs run_dir"
            )
        if not isinstance(self.keep, int) or self.keep < 1:
            raise ConfigError(f"keep must be a positive number of checkpoints, got {self.keep!r}")
        if self.activation_checkpointing and self.backward == "joint":
            raise ConfigError(
                "activation checkpointing recomputes forwards during the one joint backward, when their "
                "datasets are no longer active; use backward='per_dataset'"
            )

    @property
    def checkpoints(self) -> Path | None:
        """The folder of the checkpoints, or None."""
        return self.run_dir / "checkpoints" if self.run_dir is not None else None


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise ConfigError if a value is none of those that a Literal type lists."""
    if value not in get_args(choices):
        raise ConfigError(f"{name} must be one of {get_args(choices)}, got {value!r}")
