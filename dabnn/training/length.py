"""How many steps a run makes."""

from __future__ import annotations

from dabnn.errors import ConfigError
from dabnn.training.loaders import AlternatingLoaders
from dabnn.training.options import EpochLength


def total_steps(
    loaders: AlternatingLoaders,
    made: int,
    *,
    max_steps: int | None,
    epochs: int | None,
    epoch_length: EpochLength,
) -> int:
    """Return the number of steps at which a run ends, counted from its start.

    Args:
        loaders: Tell the steps of an epoch.
        made: Number of finished steps.
        max_steps: The number itself, or None.
        epochs: Number of epochs, or None.
        epoch_length: Which dataset ends an epoch.

    Raises:
        ConfigError: If not exactly one of ``max_steps`` and ``epochs`` is a positive number, or more steps
            were made.
        DataError: If a loader is empty.
    """
    if (max_steps is None) == (epochs is None):
        raise ConfigError("give either max_steps or epochs")
    steps = max_steps if epochs is None else epochs * loaders.steps_per_epoch(epoch_length)
    if not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"the number of steps must be a positive integer, got {steps!r}")
    if steps < made:
        raise ConfigError(
            f"{steps} steps in total are fewer than the {made} already made; max_steps counts from the start "
            "of the run"
        )
    return steps
