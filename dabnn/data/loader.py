"""A data loader that can stop anywhere and continue exactly there."""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from multiprocessing.synchronize import Event
from types import FrameType
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from dabnn.data.base import Sample, SegmentationDataset
from dabnn.data.transforms import eval_transform
from dabnn.errors import DataError

Key = tuple[int, int]
"""Epoch and index: with the seed and the dataset's name, all that a sample depends on."""

Transform = Callable[[Sample], dict[str, Tensor]]


class Batch(TypedDict):
    """One batch: ``image`` float (B, 3, H, W), ``mask`` int64 (B, H, W) of class ids or the ignore index."""

    image: Tensor
    mask: Tensor


class SeededLoader(DataLoader[dict[str, Tensor]]):
    """A `torch.utils.data.DataLoader` whose batches depend on (seed, dataset name, epoch, index) alone.

    Batch k of epoch e is the same with any number of workers, in any process and whatever the global random
    state, which is left as it was. Only torch's CPU generator is seeded: a transform or dataset must draw
    from it, not from ``random`` or ``numpy.random``.

    A shuffled loader is an endless stream cut into epochs: an iteration gives the rest of the current epoch,
    the next one another shuffle; one that was left early is continued. An unshuffled loader, the one
    for evaluation, always starts at its first batch. After `load_state_dict` both continue where the
    state was taken. Two iterations of one loader cannot run side by side.

    Args:
        dataset: Where the samples come from.
        batch_size: Samples a batch.
        transform: From a sample to a dict of tensors, such as `dabnn.data.train_transform`; if left out,
            images become floats in [0, 1].
        seed: Seed of order and transforms.
        num_workers: Worker processes (kept alive between epochs), 0 to load in this process.
        shuffle: Draw another order each epoch.
        drop_last: Leave out a last batch smaller than ``batch_size``.
        pin_memory: Copy batches to page-locked memory, for faster transfer to a GPU.
        part: ``(index, count)``: give only the samples of one of ``count`` processes, see `shard`.

    Attributes:
        source: The dataset as it was given (``dataset`` holds a seeded view of it).

    Raises:
        DataError: The dataset is empty, or has not even one full batch and ``drop_last`` is set.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        batch_size: int,
        *,
        transform: Transform | None = None,
        seed: int = 0,
        num_workers: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        pin_memory: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        sampler = _KeySampler(len(dataset), (seed, dataset.name), shuffle, part)
        _check_length(dataset, len(sampler), batch_size, drop_last)
        super().__init__(
            _SeededSamples(dataset, transform or eval_transform(mean=(0.0,) * 3, std=(1.0,) * 3), seed),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=num_workers,
            drop_last=drop_last,
            pin_memory=pin_memory,
            collate_fn=partial(_collate, dataset.name),
            persistent_workers=num_workers > 0,
            worker_init_fn=partial(_heed_sigterm_at_the_end, _main_ends()) if num_workers else None,
            generator=torch.Generator(),  # or every iteration would advance the global generator
        )
        self.source = dataset
        self._keys = sampler
        self._samples_a_batch = batch_size
        self._continues = shuffle
        self._epoch, self._batch = 0, 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield the batches from the current position to the end of the epoch."""
        if not self._continues:  # an evaluation pass that was left early starts over
            self._batch = 0
        self._continues = self._keys.shuffle
        epoch, start = self._epoch, self._batch
        self._keys.seek(epoch, start * self._samples_a_batch)
        for number, batch in enumerate(super().__iter__(), start + 1):
            # Before the yield: a state taken while the consumer holds this batch counts it as handed out.
            self._epoch, self._batch = (epoch, number) if number < len(self) else (epoch + 1, 0)
            yield batch

    def shard(self, index: int, count: int) -> SeededLoader:
        """Return a new loader at the start of the part that process ``index`` of ``count`` reads.

        The samples of an epoch are dealt out one by one, so the k-th batches of all processes together are
        the k-th batch of one process with ``count`` times the batch size. A shuffled loader leaves out the
        last samples of an epoch that do not go round; an unshuffled one deals out all.
        """
        samples = self.dataset
        return SeededLoader(
            self.source,
            self._samples_a_batch,
            transform=samples.transform,  # type: ignore[attr-defined]
            seed=samples.seed,  # type: ignore[attr-defined]
            num_workers=self.num_workers,
            shuffle=self._keys.shuffle,
            drop_last=self.drop_last,
            pin_memory=self.pin_memory,
            part=(index, count),
        )

    def state_dict(self) -> dict[str, int]:
        """Return the position: ``epoch`` and ``batch``, the batches of that epoch handed out so far.

        Batches that workers have prepared but nobody has received do not count.
        """
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue the next iteration at ``state``, taken from a loader with the same arguments.

        Raises:
            DataError: The position lies outside an epoch of this loader.
        """
        epoch, batch = state["epoch"], state["batch"]
        if epoch < 0 or not 0 <= batch < len(self):
            raise DataError(
                f"cannot continue dataset '{self.source.name}' at epoch {epoch}, batch {batch}: an epoch has "
                f"{len(self)} batches here; resume with the dataset and batch size of the first run."
            )
        self._epoch, self._batch, self._continues = epoch, batch, True


class _KeySampler(Sampler[Key]):
    """Yields the keys of an epoch; the epoch travels in the keys, so that persistent workers know it."""

    def __init__(self, length: int, stream: tuple[int, str], shuffle: bool, part: tuple[int, int]) -> None:
        self.length = length
        self.stream = stream
        self.shuffle = shuffle
        self.index, self.count = part
        self.seek(0, 0)

    def seek(self, epoch: int, start: int) -> None:
        """Begin the next iteration at sample ``start`` of ``epoch``."""
        self.epoch, self.start = epoch, start

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration: the hook of Accelerate and of torch's samplers."""
        self.epoch = epoch

    def __len__(self) -> int:
        # Of a shuffled epoch every process has equally many samples, or one would wait for the others.
        rest = 0 if self.shuffle else self.length % self.count > self.index
        return self.length // self.count + rest

    def __iter__(self) -> Iterator[Key]:
        epoch, start, self.start = self.epoch, self.start, 0
        order: Sequence[int] = range(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(_stable_hash(*self.stream, epoch))
            order = torch.randperm(self.length, generator=generator).tolist()
        for index in order[self.index :: self.count][start : len(self)]:
            yield epoch, index


class _SeededSamples(Dataset[dict[str, Tensor]]):
    """The dataset with its transform, each sample made under a generator state of its own."""

    def __init__(self, dataset: SegmentationDataset, transform: Transform, seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reset the generators of the GPUs as well, and so repeat their dropout.
            torch.default_generator.manual_seed(_stable_hash(self.seed, self.dataset.name, *key))
            return self.transform(self.dataset[key[1]])


@cache
def _main_ends() -> Event:
    """Return what tells workers that the main process ends; it is set before Python asks them to end too."""
    event = multiprocessing.Event()
    atexit.register(event.set)
    return event


def _heed_sigterm_at_the_end(main_ends: Event, worker: int) -> None:
    """Leave SIGTERM, which schedulers send to a whole process group, to the main process: it saves.

    When that ends, it waits for workers that it asked by SIGTERM to end.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        if main_ends.is_set():
            os._exit(0)

    signal.signal(signal.SIGTERM, handler)


def _stable_hash(*parts: int | str) -> int:
    """Hash to 63 bits, equal in every process, unlike ``hash()`` of a string."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _collate(name: str, samples: list[dict[str, Tensor]]) -> Batch:
    sizes = sorted({tuple(sample["image"].shape[-2:]) for sample in samples})
    if len(sizes) > 1:
        raise DataError(
            f"images of dataset '{name}' differ in size within a batch: (height, width) {sizes}; "
            "use batch_size=1, or a transform that gives one size."
        )
    batch: Batch = default_collate(samples)
    return batch


def _check_length(dataset: SegmentationDataset, samples: int, batch_size: int, drop_last: bool) -> None:
    if len(dataset) == 0:
        raise DataError(f"dataset '{dataset.name}' is empty: check its folder and split.")
    if drop_last and batch_size > samples:
        where = "" if samples == len(dataset) else " in each process"
        raise DataError(
            f"dataset '{dataset.name}' has {samples} samples{where}, less than one batch of {batch_size}: "
            f"use batch_size <= {samples} or drop_last=False."
        )
