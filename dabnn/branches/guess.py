"""Guess which dataset images of unknown origin are like, from the statistics at the first norms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dabnn.batch import inputs_of
from dabnn.errors import DataError, NoBatchNormFoundError
from dabnn.layers.surgery import device_of, eval_mode, statistics_of
from dabnn.layers.switch import named_switches
from dabnn.selection import find_selection, unwrap, use_dataset

LAYERS = 16
DIVISOR = 32


@dataclass(frozen=True, eq=False)
class DatasetGuess:
    """How well images fit each dataset of a model.

    Attributes:
        names: The datasets, in branch order.
        scores: Misfit (B, N) of every image to every dataset, 0 at best; float32, on the CPU.
        thresholds: Largest misfit (N,) that a dataset accepts; inf to never abstain.
    """

    names: tuple[str, ...]
    scores: Tensor
    thresholds: Tensor

    @property
    def datasets(self) -> tuple[str | None, ...]:
        """The best dataset of each image, None where it fits none."""
        return tuple(self._decide(row) for row in self.scores)

    @property
    def together(self) -> str | None:
        """The best dataset if all images are known to come from one, None if they fit none."""
        return self._decide(self.scores.mean(0))

    def _decide(self, scores: Tensor) -> str | None:
        best = int(scores.argmin())
        return self.names[best] if scores[best] <= self.thresholds[best] else None


def guess_dataset(
    model: nn.Module,
    images: Tensor,
    *,
    thresholds: Mapping[str, float] | None = None,
    layers: int = LAYERS,
) -> DatasetGuess:
    """Compare the statistics of images, at the first norms, with those that each dataset's branch keeps.

    At a norm an image has a mean and a variance per channel, and the branch has running ones: the misfit
    is the Kullback-Leibler divergence of the two normal distributions, averaged over channels and norms.
    One forward per dataset, which ends at the last of these norms. The model is not changed.

    Args:
        model: A converted model with batch norms.
        images: Normalised images (B, 3, H, W), on the device of the model; what is over a multiple of 32 in
            height and width is left out, since many models take no other sizes.
        thresholds: Largest misfit by dataset, see `guess_thresholds`; left out, an image is always one of
            the datasets'.
        layers: Number of norms to look at.

    Raises:
        DataError: If there is no image.
        NoBatchNormFoundError: If no batch norm with running statistics is reached.
        ValueError: If ``layers`` is not positive.
        UnknownDatasetError: If ``thresholds`` names a dataset that the model does not know.
        NotDatasetAwareError: If the model was not converted.
    """
    selection = find_selection(model)
    limits = torch.full((len(selection),), float("inf"))
    for name, limit in (thresholds or {}).items():
        limits[selection.index(name)] = limit
    if layers < 1:
        raise ValueError(f"layers must be positive, got {layers}")
    if len(images) == 0:
        raise DataError("there is no image to guess the dataset of")
    height, width = (max(side - side % DIVISOR, min(side, DIVISOR)) for side in images.shape[-2:])
    images = images[..., :height, :width]
    with torch.no_grad(), eval_mode(model):
        scores = [_misfit(model, index, images, layers) for index in range(len(selection))]
    return DatasetGuess(selection.names, torch.stack(scores, dim=1).cpu(), limits)


def guess_thresholds(
    model: nn.Module, loaders: Mapping[str, Iterable[Any]], *, keep: float = 0.95, layers: int = LAYERS
) -> dict[str, float]:
    """Return, for each dataset, the misfit that a share of its own images stays below.

    Args:
        model: A converted model with batch norms.
        loaders: Batches of held-out images by dataset; pairs or mappings with "image".
        keep: Share of a dataset's own images, in (0, 1], that shall not be turned away.
        layers: As for `guess_dataset`.

    Raises:
        DataError: If a loader is empty or a batch is malformed.
        ValueError: If ``keep`` is out of range.
        UnknownDatasetError: If the model does not know a dataset.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")
    selection = find_selection(model)
    device = device_of(model)
    thresholds = {}
    for name, loader in loaders.items():
        index = selection.index(name)
        own = [
            guess_dataset(model, inputs_of(batch).to(device), layers=layers).scores[:, index]
            for batch in loader
        ]
        if not own:
            raise DataError(f"the loader of dataset {name!r} is empty")
        thresholds[name] = torch.cat(own).quantile(keep).item()
    return thresholds


class _Enough(Exception):
    """Ends a forward whose remaining layers are not needed."""


def _misfit(model: nn.Module, index: int, images: Tensor, layers: int) -> Tensor:
    """Return the misfit (B,) of images to one dataset."""
    found: list[Tensor] = []
    with use_dataset(model, index), _watching(model, index, found, layers), suppress(_Enough):
        model(images)
    if not found:
        raise NoBatchNormFoundError(f"{type(model).__name__} reaches no batch norm with running statistics")
    return torch.stack(found).mean(0)


@contextmanager
def _watching(model: nn.Module, index: int, found: list[Tensor], layers: int) -> Iterator[None]:
    def watch(norm: _BatchNorm, args: tuple[Tensor, ...]) -> None:
        found.append(_divergence(args[0], norm))
        if len(found) == layers:
            raise _Enough

    norms = [
        module
        for _, switch in named_switches(unwrap(model))
        for module in switch.branches[index].modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    handles = [norm.register_forward_pre_hook(watch) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _divergence(x: Tensor, norm: _BatchNorm) -> Tensor:
    """Return KL(image || branch) of inputs (B, C, ...) in nats, averaged over the channels: (B,)."""
    values = x.flatten(2).float()
    expected, spread = (own.float() for own in statistics_of(norm))
    mean, variance = values.mean(2), values.var(2, correction=0) + norm.eps
    spread = spread + norm.eps
    ratio = variance / spread
    return (ratio + (mean - expected).square() / spread - 1 - ratio.log()).mean(1) / 2
