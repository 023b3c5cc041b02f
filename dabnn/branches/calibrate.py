"""Precise batch norm: replace running statistics by true averages over a loader (Wu & Johnson, 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from dabnn.batch import inputs_of
from dabnn.errors import DataError, NoBatchNormFoundError
from dabnn.layers.surgery import device_of, eval_mode, statistics_of
from dabnn.layers.switch import named_switches
from dabnn.selection import DatasetKey, find_selection, unwrap, use_dataset


@dataclass
class Moments:
    """Sums over everything that reached one norm, per channel and in float64."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Add a batch (B, C, ...)."""
        values = x.detach().transpose(0, 1).flatten(1).double()
        self.count += values.shape[1]
        self.total = self.total + values.sum(1)
        self.squares = self.squares + values.square().sum(1)

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """Return the mean and, as torch keeps it, the unbiased variance."""
        mean = torch.as_tensor(self.total) / self.count
        variance = torch.as_tensor(self.squares) / self.count - mean.square()
        return mean, variance.clamp(min=0) * self.count / max(self.count - 1, 1)


def recalibrate_batch_norm(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    dataset: DatasetKey | None = None,
    max_batches: int | None = None,
) -> None:
    """Set the running statistics of one dataset's norms to the true averages over a loader, in place.

    As in training each norm normalises with the statistics of its batch, so the batches should be as large
    as they were there and as random: not of neighbours in a video. Everything else runs in eval mode.
    Moments are pooled over all batches by their number of values. Parameters, other datasets, norms that
    stay shared or are not reached, and train/eval modes are not touched; an error on the way leaves the old
    statistics.

    Args:
        model: A converted model or, without ``dataset``, any model with batch norms.
        loader: Batches ``(inputs, ...)`` pairs or mappings with "image"; labels are not used.
        dataset: Whose norms to recalibrate; needed for a converted model.
        max_batches: Read only that many batches.

    Raises:
        ValueError: If the model is converted and no dataset is given.
        DataError: If the loader is empty or a batch is malformed.
        NoBatchNormFoundError: If the dataset has no batch norm with running statistics.
        UnknownDatasetError: If the model does not know the dataset.
        NotDatasetAwareError: If ``dataset`` is given and the model was not converted.
    """
    norms = _norms(model, dataset)
    if not norms:
        raise NoBatchNormFoundError(f"{type(model).__name__} has no batch norm with running statistics here")
    device = device_of(model)
    before = [{name: b.clone() for name, b in norm.named_buffers(recurse=False)} for norm in norms]
    moments = [Moments() for _ in norms]
    try:
        with torch.no_grad(), eval_mode(model), _collecting(norms, moments):
            for batch in islice(loader, max_batches):
                _forward(model, inputs_of(batch).to(device), dataset)
        if not any(moment.count for moment in moments):
            raise DataError("the loader gave no batch; check its split")
    except BaseException:
        _restore(norms, before)
        raise
    _restore(norms, before)  # the number of batches tracked, and the type of the buffers
    for norm, moment in zip(norms, moments, strict=True):
        if not moment.count:  # a layer that the forward leaves out
            continue
        mean, variance = moment.mean_and_variance()
        for own, measured in zip(statistics_of(norm), (mean, variance), strict=True):
            own.copy_(measured)


def sync_batch_norm_buffers(model: nn.Module) -> None:
    """Make the running statistics of all norms equal in all processes, in place: means and pooled variances.

    After training in several processes each has statistics of its own; call this before evaluating or
    saving. One process alone is left as it is.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    if not norms:
        return
    statistics = [statistics_of(norm) for norm in norms]
    means = [mean.double() for mean, _ in statistics]
    squares = [variance.double() + mean.double().square() for mean, variance in statistics]
    both = torch.cat([torch.cat(means), torch.cat(squares)])
    torch.distributed.all_reduce(both)
    both /= torch.distributed.get_world_size()
    sizes = [len(mean) for mean in means]
    mean_parts, square_parts = (part.split(sizes) for part in both.chunk(2))
    for (own_mean, own_variance), mean, square in zip(statistics, mean_parts, square_parts, strict=True):
        own_mean.copy_(mean)
        own_variance.copy_(square - mean.square())


def _norms(model: nn.Module, dataset: DatasetKey | None) -> list[_BatchNorm]:
    roots: list[nn.Module] = [model]
    if dataset is None and any(named_switches(unwrap(model))):
        raise ValueError("say with dataset= whose norms to recalibrate: this model is dataset-aware")
    if dataset is not None:
        index = find_selection(model).index(dataset)
        roots = [switch.branches[index] for _, switch in named_switches(unwrap(model))]
    found = {id(m): m for root in roots for m in root.modules() if isinstance(m, _BatchNorm)}
    return [norm for norm in found.values() if norm.running_mean is not None]


@contextmanager
def _collecting(norms: list[_BatchNorm], moments: list[Moments]) -> Iterator[None]:
    """Let the norms use batch statistics and note what reaches them."""
    handles = []
    try:
        for norm, moment in zip(norms, moments, strict=True):
            norm.training = True
            handles.append(norm.register_forward_pre_hook(lambda _, args, moment=moment: moment.add(args[0])))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward(model: nn.Module, inputs: Any, dataset: DatasetKey | None) -> None:
    if dataset is None:
        model(inputs)
        return
    with use_dataset(model, dataset):
        model(inputs)


def _restore(norms: list[_BatchNorm], buffers: list[dict[str, Tensor]]) -> None:
    for norm, saved in zip(norms, buffers, strict=True):
        for name, value in saved.items():
            getattr(norm, name).copy_(value)
