"""Which dataset is active: one small object per model, shared by all its switches.

Selecting a dataset sets one attribute of one object, whatever the number of layers and datasets.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from dabnn.errors import DabnnWarning, NoActiveDatasetError, NotDatasetAwareError, UnknownDatasetError

SELECTION_ATTRIBUTE = "dataset_selection"

DatasetKey = int | str
"""A dataset of a model, by name or by index."""


class DatasetSelection:
    """The dataset names of one model and the index of the active one.

    Every `dabnn.DatasetSwitch` of a model holds the same selection; a deep copy or an unpickled model
    holds its own. It is not thread-safe: threads serve models from `dabnn.extract_dataset`.

    Attributes:
        names: The dataset names, in branch order.
        active: Index of the active dataset, or None. A single dataset is active from the start.
        segments: Set during a fused forward only: pairs (dataset index, number of samples) that say
            how the batch dimension is divided.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Start without an active dataset, unless there is only one.

        Args:
            names: Unique, non-empty dataset names.

        Raises:
            ValueError: If there is no name, or a name is empty, not a string or given twice.
        """
        if not names or isinstance(names, str):
            raise ValueError(f"dataset_names must be a non-empty sequence of names, got {names!r}")
        for name in names:
            if not isinstance(name, str) or not name:
                raise ValueError(f"dataset names must be non-empty strings, got {name!r}")
        if len(set(names)) != len(names):
            raise ValueError(f"dataset names must be unique, got {list(names)}")
        self.names: tuple[str, ...] = tuple(names)
        self.active: int | None = 0 if len(names) == 1 else None
        self.segments: tuple[tuple[int, int], ...] | None = None
        self._recompilation_warned = False

    def __len__(self) -> int:
        """Return the number of datasets."""
        return len(self.names)

    def __repr__(self) -> str:
        active = None if self.active is None else self.names[self.active]
        return f"DatasetSelection(names={list(self.names)}, active={active!r})"

    def add(self, name: str) -> None:
        """Append a dataset. A single one was active on its own; among several, none is until it is chosen."""
        alone = len(self) == 1
        self.names = DatasetSelection([*self.names, name]).names
        if alone:
            self.active = None
        self._recompilation_warned = False

    def remove(self, index: int) -> None:
        """Take a dataset out; later ones move up, and the active dataset stays the same or becomes none."""
        active = None if self.active in (None, index) else self.names[self.active]
        self.names = tuple(name for i, name in enumerate(self.names) if i != index)
        self.active = self.names.index(active) if active is not None else None
        if len(self) == 1:
            self.active = 0

    def rename(self, names: Sequence[str]) -> None:
        """Give the datasets other names, in branch order.

        Raises:
            ValueError: If there are more or fewer names than datasets, or they are no names for datasets.
        """
        if len(names) != len(self):
            raise ValueError(f"{len(self)} datasets need as many names, got {list(names)}")
        self.names = DatasetSelection(names).names

    def index(self, dataset: DatasetKey) -> int:
        """Return the branch index of a dataset given by name or (non-negative) index.

        Raises:
            UnknownDatasetError: If there is no such dataset.
        """
        if isinstance(dataset, str) and dataset in self.names:
            return self.names.index(dataset)
        if isinstance(dataset, int) and not isinstance(dataset, bool) and 0 <= dataset < len(self.names):
            return dataset
        known = ", ".join(f"{i}: {name!r}" for i, name in enumerate(self.names))
        raise UnknownDatasetError(f"unknown dataset {dataset!r}; this model knows {{{known}}}")

    def require_active(self) -> int:
        """Return the index of the active dataset.

        Raises:
            NoActiveDatasetError: If none is selected.
        """
        if self.active is None:
            raise NoActiveDatasetError(
                f"no dataset is active; this model knows {list(self.names)}. Select one with "
                f"`with dabnn.use_dataset(model, {self.names[0]!r}): ...` or `dabnn.set_dataset`. "
                "(If this happened during backward, activation checkpointing recomputed a forward: keep "
                "the backward pass inside the same `use_dataset` block.)"
            )
        return self.active

    def _warn_about_recompilation(self) -> None:
        """Warn once if `torch.compile` keeps fewer graphs than there are datasets.

        Every dataset is a graph of its own. Called by the switches while a graph is traced; results are
        right in any case, since torch runs the datasets beyond its limit without compilation.
        """
        from torch._dynamo import config  # slow to import, and loaded already while a graph is traced

        if self._recompilation_warned or torch.compiler.is_exporting() or len(self) <= config.recompile_limit:
            return
        self._recompilation_warned = True
        warnings.warn(
            f"torch.compile keeps {config.recompile_limit} graphs of a function, this model needs one for "
            f"each of its {len(self)} datasets: the others run uncompiled. Set "
            f"torch._dynamo.config.recompile_limit to at least {len(self)}, twice that if you compile for "
            "training and evaluation",
            DabnnWarning,
            stacklevel=2,
        )

    # What torch.compiler.assume_constant_result sets, without its slow import of torch._dynamo: the method
    # runs while a graph is traced and leaves nothing in it.
    _warn_about_recompilation._dynamo_marked_constant = True  # type: ignore[attr-defined]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the converted model inside DDP, compile and EMA wrappers, or ``model`` if there is none."""
    module: object = model
    while isinstance(module, nn.Module):
        if isinstance(vars(module).get(SELECTION_ATTRIBUTE), DatasetSelection):
            return module
        module = (
            getattr(module, "_orig_mod", None)
            if hasattr(module, "_orig_mod")
            else getattr(module, "module", None)
        )
    return model


def find_selection(model: nn.Module) -> DatasetSelection:
    """Return the selection of a converted model, also through DDP, compile and EMA wrappers.

    Converted models and their usual wrappers answer in constant time; any other module that contains
    one converted model is searched.

    Raises:
        NotDatasetAwareError: If the model was never converted, or holds several converted models.
    """
    selection = vars(unwrap(model)).get(SELECTION_ATTRIBUTE)
    if isinstance(selection, DatasetSelection):
        return selection
    found = {
        id(selection): selection
        for module in model.modules()
        if isinstance(selection := vars(module).get("selection"), DatasetSelection)
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise NotDatasetAwareError(
            f"{type(model).__name__} holds {len(found)} separately converted models; select the dataset on "
            "each of them, or build all of them with one DatasetSelection"
        )
    raise NotDatasetAwareError(
        f"{type(model).__name__} is not dataset-aware; call dabnn.convert_to_dataset_aware(model, n) first"
    )


@contextmanager
def use_dataset(model: nn.Module, dataset: DatasetKey) -> Iterator[None]:
    """Select a dataset inside a ``with`` block, then restore what was selected before.

    Blocks nest, and the previous selection is restored when an exception leaves the block. Only the
    selection changes: parameters, buffers, ``requires_grad`` and train/eval mode are not touched. A copy
    made inside the block (deepcopy, pickle) keeps the selection. With activation checkpointing the backward
    pass belongs into the block too, for it runs the forward again.

    Args:
        model: A converted model, plain or wrapped (DDP, `torch.compile`, EMA).
        dataset: Name or index of the dataset.

    Raises:
        UnknownDatasetError: If the model does not know the dataset.
        NotDatasetAwareError: If the model was not converted.

    Example:
        >>> import torch, dabnn
        >>> model = dabnn.convert_to_dataset_aware(torch.nn.BatchNorm2d(3), 2)
        >>> with dabnn.use_dataset(model, 1):
        ...     y = model(torch.zeros(2, 3, 4, 4))
        >>> dabnn.active_dataset(model) is None
        True
    """
    selection = find_selection(model)
    index = selection.index(dataset)
    previous = selection.active
    selection.active = index
    try:
        yield
    finally:
        selection.active = previous


def set_dataset(model: nn.Module, dataset: DatasetKey | None) -> None:
    """Select a dataset until further notice; None deselects, so that a forward raises again.

    Prefer `use_dataset`. With activation checkpointing the backward pass runs the forward again under
    the dataset that is active *then*: a selection that persists over forward and backward is right, a
    change in between gives wrong gradients.

    Raises:
        UnknownDatasetError: If the model does not know the dataset.
        NotDatasetAwareError: If the model was not converted.
    """
    selection = find_selection(model)
    selection.active = None if dataset is None else selection.index(dataset)


def active_dataset(model: nn.Module) -> str | None:
    """Return the name of the active dataset, or None."""
    selection = find_selection(model)
    return None if selection.active is None else selection.names[selection.active]


def dataset_names(model: nn.Module) -> tuple[str, ...]:
    """Return the dataset names of a converted model, in branch order."""
    return find_selection(model).names


@contextmanager
def use_segments(model: nn.Module, segments: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Divide the batch dimension among datasets inside a ``with`` block (the fused forward).

    Args:
        model: A converted model.
        segments: Pairs (dataset index, number of samples), in the order of the batch.
    """
    selection = find_selection(model)
    previous = selection.segments
    selection.segments = tuple(segments)
    try:
        yield
    finally:
        selection.segments = previous
