"""What several processes of one training must agree on, and how they divide the data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import torch
from accelerate import PartialState
from accelerate.data_loader import get_sampler, prepare_data_loader
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from dabnn.data import SeededLoader
from dabnn.errors import ConfigError, ProcessError
from dabnn.training.warning import warn

T = TypeVar("T")


def processes() -> PartialState:
    """Return which of how many processes this is; the first call connects those of one launch."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # Accelerate must be told that there is no GPU, or each process would train alone.
    return PartialState(cpu=several and not torch.accelerator.is_available())


def shard(dataset: str, loader: Iterable[Any], *, training: bool) -> Iterable[Any]:
    """Return this process's part of a loader; with one process the loader itself.

    The batch size is that of each process. In training all parts have equally many batches; in evaluation
    every sample is in one part. The order of a shuffling loader is the same in all processes.

    Args:
        dataset: Its name, for the warning.
        loader: A `SeededLoader` or torch's DataLoader is divided; one with a DistributedSampler is divided
            already, and any other iterable is taken to be, with a warning.
        training: Whether the parts must be of one length.
    """
    count, index = processes().num_processes, processes().process_index
    if count == 1:
        return loader
    if isinstance(loader, SeededLoader):
        return loader.shard(index, count)
    if not isinstance(loader, DataLoader) or loader.batch_size is loader.batch_sampler is None:
        warn(
            f"the loader of dataset {dataset!r} is no DataLoader with batches, so it cannot be divided: each "
            "process reads its own, which should hold only its part of the data"
        )
        return loader
    sampler = get_sampler(loader)
    if isinstance(sampler, DistributedSampler):
        return loader
    seed = from_main(torch.initial_seed())
    if getattr(sampler, "generator", seed) is None:  # each process would shuffle in its own way
        sampler.generator = torch.Generator().manual_seed(seed)
    divided = prepare_data_loader(
        loader,
        num_processes=count,
        process_index=index,
        even_batches=training,
        use_stateful_dataloader=hasattr(loader, "state_dict"),
    )
    part: DataLoader[Any] = divided.base_dataloader  # without the state of gradient accumulation around it
    return part


def agreed(action: Callable[[], T], *, main_only: bool = False) -> T:
    """Run ``action`` in every process and return its result; if it raises in one, all raise.

    Args:
        action: What to run; it must not wait for other processes.
        main_only: Run it in the main process only; the others wait, and get None.

    Raises:
        ProcessError: If it failed in another process; the message has that process's reason.
    """
    if processes().num_processes == 1:
        return action()
    result, failure = None, None
    try:
        if processes().is_main_process or not main_only:
            result = action()
    except Exception as error:
        failure = error
    if any_process(failure is not None):
        raise_everywhere(failure)
    return result  # type: ignore[return-value]


def raise_everywhere(failure: Exception | None) -> NoReturn:
    """Raise in all processes, once all know that one has failed.

    Args:
        failure: The error of this process, which it raises itself, or None.

    Raises:
        ProcessError: In the processes that did not fail; the message has the reasons of the others.
    """
    reasons = gathered(f"{type(failure).__name__}: {failure}" if failure else None)
    if failure is not None:
        raise failure
    failed = [f"process {rank}: {reason}" for rank, reason in enumerate(reasons) if reason]
    raise ProcessError(f"another process failed; {'; '.join(failed)}")


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Check that a run is the same in all processes.

    Raises:
        ConfigError: In all processes, if one has another value for one of the facts.
    """
    everywhere = gathered(dict(facts))
    for name in facts:
        values = [other[name] for other in everywhere]
        if any(value != values[0] for value in values):
            listed = "; ".join(f"process {rank}: {value!r}" for rank, value in enumerate(values))
            raise ConfigError(f"all processes must have the same {name}, but there are {listed}")


def any_process(flag: bool) -> bool:
    """Tell whether the flag is set in any process."""
    if processes().num_processes == 1:
        return flag
    return bool(summed(torch.tensor([float(flag)], device=processes().device)).item() > 0)


def gathered(value: T) -> list[T]:
    """Return what every process has as ``value``, in the order of the processes."""
    everywhere: list[T] = gather_object([value])
    return everywhere


def summed(values: Tensor) -> Tensor:
    """Return the sum of ``values`` over the processes, which is put in their place."""
    if processes().num_processes > 1:
        torch.distributed.all_reduce(values)
    return values


def from_main(value: T) -> T:
    """Return what the main process has as ``value``."""
    if processes().num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]
