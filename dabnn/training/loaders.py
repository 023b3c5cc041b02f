"""Draw one batch (or more) per dataset and step from loaders of different length, resumably."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import DistributedSampler

from dabnn.errors import CheckpointError, ConfigError, DataError
from dabnn.training.batch import Draw
from dabnn.training.options import EpochLength, check_choice
from dabnn.training.warning import warn

CHECK_EMPTY = "check its split, and that drop_last does not drop its only batch"


class BatchStream:
    """An endless stream of one loader's batches that knows its position.

    The loader is iterated again whenever it ends, so a shuffling loader gives another order each time.
    """

    def __init__(self, dataset: str, loader: Iterable[Any]) -> None:
        """Start at the first batch of the loader."""
        self.dataset = dataset
        self.loader = loader
        self._iterator: Iterator[Any] | None = None
        self._position = 0  # batches since the loader was last started over
        self._epoch = 0
        self._started = False

    def __len__(self) -> int:
        """Return the number of batches an epoch; raises TypeError for loaders without a length."""
        return len(self.loader)  # type: ignore[arg-type]

    def next(self) -> Any:
        """Return the next batch, starting the loader over when it ends.

        Raises:
            DataError: If the loader is empty, or an iterator that cannot start over.
        """
        for _ in range(2):
            try:
                if self._iterator is None:
                    self._iterator = self._start_over()
                batch = next(self._iterator)
            except StopIteration:
                self._iterator = None
                continue
            except Exception as error:
                error.add_note(f"This was raised by the loader of dataset {self.dataset!r}.")
                raise
            self._position += 1
            self._started = True
            return batch
        reason = "it can be read only once: pass one that can start over" if self._started else CHECK_EMPTY
        raise DataError(f"the loader of dataset {self.dataset!r} has no more batches; {reason}")

    def _start_over(self) -> Iterator[Any]:
        sampler = getattr(self.loader, "sampler", None)
        if isinstance(sampler, DistributedSampler):  # or every epoch would have the same order
            sampler.set_epoch(self._epoch)
        self._position = 0
        self._epoch += 1
        return iter(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's own state if it keeps one, else the number of batches to read again."""
        if hasattr(self.loader, "state_dict"):
            return {"loader": self.loader.state_dict()}
        return {"batches": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved position.

        Loaders with a ``load_state_dict`` continue exactly. Others are read forward within the epoch, with
        a warning: the order is the same only if the loader is deterministic.

        Raises:
            CheckpointError: If the state is that of a loader that kept one, which this one cannot restore.
        """
        self._iterator = None
        if "loader" in state:
            if not hasattr(self.loader, "load_state_dict"):
                raise CheckpointError(
                    f"the loader of dataset {self.dataset!r} cannot restore its saved state; resume with the "
                    "kind of loader that the run began with"
                )
            self.loader.load_state_dict(state["loader"])
            return
        warn(
            f"the loader of dataset {self.dataset!r} has no state_dict: reading {state['batches']} batches "
            "forward; the resumed run is exact only if its order is deterministic, as SeededLoader's"
        )
        for _ in range(state["batches"]):
            self.next()


class AlternatingLoaders:
    """One stream per dataset; each step draws ``ratios[dataset]`` batches from every one.

    Attributes:
        streams: The streams by dataset name, in training order.
    """

    def __init__(
        self,
        loaders: Mapping[str, Iterable[Any]],
        weights: Mapping[str, float] | None = None,
        ratios: Mapping[str, int] | None = None,
    ) -> None:
        """Check the arguments; no batch is read yet.

        Args:
            loaders: Any iterable of batches per dataset.
            weights: Loss weights w_i of Eq. 3; default 1.
            ratios: Batches per step; default 1. The loss of a dataset stays the mean over its batches.

        Raises:
            ConfigError: If a weight or ratio is negative, not a number, or of an unknown dataset.
        """
        self.streams = {name: BatchStream(name, loader) for name, loader in loaders.items()}
        self.weights = checked_weights(loaders, weights)
        self.ratios = dict.fromkeys(loaders, 1) | _known("ratios", ratios, loaders)
        for name, ratio in self.ratios.items():
            if not isinstance(ratio, int) or ratio < 1:
                raise ConfigError(f"ratios[{name!r}] must be a positive number of batches, got {ratio!r}")

    def draw(self) -> list[Draw]:
        """Return the batches of one DAT step, in dataset order."""
        return [
            Draw(name, stream.next(), self.weights[name] / self.ratios[name])
            for name, stream in self.streams.items()
            for _ in range(self.ratios[name])
        ]

    def steps_per_epoch(self, length: EpochLength) -> int:
        """Return the steps until the longest (or shortest) dataset was seen once.

        Raises:
            ConfigError: If a loader has no length, or the policy is unknown.
            DataError: If a loader is empty.
        """
        check_choice("epoch_length", length, EpochLength)
        steps = []
        for name, stream in self.streams.items():
            try:
                batches = len(stream)
            except TypeError:
                raise ConfigError(
                    f"the loader of dataset {name!r} has no length, so epochs are undefined; give max_steps"
                ) from None
            if batches == 0:
                raise DataError(f"the loader of dataset {name!r} is empty; {CHECK_EMPTY}")
            steps.append(-(-batches // self.ratios[name]))
        return max(steps) if length == "longest" else min(steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of every stream."""
        return {name: stream.state_dict() for name, stream in self.streams.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue every stream at its saved position; the datasets must be those saved.

        Raises:
            CheckpointError: If a loader that kept a state was replaced by one that cannot restore it.
        """
        for name, stream in self.streams.items():
            stream.load_state_dict(state[name])


def checked_weights(names: Iterable[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return the loss weight of each dataset, 1 where none is given.

    Raises:
        ConfigError: If a weight is negative, not a number, or of an unknown dataset.
    """
    names = list(names)
    complete = dict.fromkeys(names, 1.0) | _known("weights", weights, names)
    for name, weight in complete.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"weights[{name!r}] must be finite and not negative, got {weight!r}")
    return complete


def _known(what: str, values: Mapping[str, Any] | None, names: Iterable[str]) -> dict[str, Any]:
    names = list(names)
    unknown = set(values or {}) - set(names)
    if unknown:
        raise ConfigError(f"{what} names unknown datasets {sorted(unknown)}; there are {names}")
    return dict(values or {})
