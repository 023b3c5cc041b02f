"""Add a dataset to a trained network, and take one out; the other datasets stay bit for bit as they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dabnn.conversion.classifiers import LINEAR, HeadFactory, check_classifier, resize_classifier, width_of
from dabnn.layers import DatasetAwareHead, DatasetSwitch
from dabnn.layers.surgery import copy_without_hooks, memo_outside
from dabnn.layers.switch import named_switches
from dabnn.selection import DatasetKey, DatasetSelection, find_selection, unwrap

MEAN, VARIANCE = "running_mean", "running_var"


def add_dataset(
    model: nn.Module,
    name: str,
    *,
    num_classes: int | None = None,
    init_from: DatasetKey | Sequence[DatasetKey] | None = None,
    head_factory: HeadFactory | None = None,
) -> None:
    """Give every switch of a model, in place, one more branch.

    The branches of the other datasets and the shared weights are not touched. Build the optimizer
    afterwards; to leave the other datasets as they are, train `dabnn.branch_parameters` of the new one only.

    Args:
        model: A converted model; wrappers are looked through.
        name: Name of the new dataset.
        num_classes: Its number of classes; needed if, and only if, the datasets have own classifiers.
        init_from: The dataset whose norms the new ones start as; of several, the average with pooled
            variance; default all of them. The classifier starts as that of a *single* ``init_from`` with
            the same number of classes, else newly initialised.
        head_factory: ``head_factory(old, num_classes)`` builds a classifier that is no plain linear or
            convolution layer, as in `dabnn.convert_to_dataset_aware`.

    Raises:
        ValueError: If the name is empty or taken, or ``num_classes`` is missing or out of place.
        UnknownDatasetError: If the model does not know ``init_from``.
        ClassifierNotFoundError: If a classifier cannot be built for ``num_classes``.
        NotDatasetAwareError: If the model was not converted.
    """
    selection = find_selection(model)
    model = unwrap(model)
    DatasetSelection([*selection.names, name])  # checks the name
    sources = _sources(selection, init_from)
    switches = dict(named_switches(model))
    _check_num_classes(num_classes, any(isinstance(switch, DatasetAwareHead) for switch in switches.values()))
    memo = memo_outside(model, switches.values())
    memo |= {id(tensor): tensor for switch in switches.values() for tensor in switch.shared_tensors()}
    added: list[tuple[DatasetSwitch, nn.Module]] = []
    for path, switch in switches.items():
        branches = [switch.branches[index] for index in sources]
        if isinstance(switch, DatasetAwareHead):
            start = branches[0] if isinstance(init_from, int | str) else None
            branch = _new_head(path, branches[0], start, num_classes or 0, head_factory, memo)
        else:
            branch = _average(branches, memo)
        added.append((switch, branch))
    for switch, branch in added:
        switch.branches.append(branch)
    selection.add(name)


def remove_dataset(model: nn.Module, dataset: DatasetKey) -> None:
    """Take the branches of one dataset out of a model, in place; the other branches move up.

    Build optimizers anew afterwards. If the dataset was active, none is.

    Args:
        model: A converted model; wrappers are looked through.
        dataset: Name or index of the dataset.

    Raises:
        UnknownDatasetError: If the model does not know the dataset.
        ValueError: If it is the only one.
        NotDatasetAwareError: If the model was not converted.
    """
    selection = find_selection(model)
    index = selection.index(dataset)
    if len(selection) == 1:
        raise ValueError(
            f"{selection.names[0]!r} is the only dataset; take the plain model with dabnn.extract_dataset"
        )
    for _, switch in named_switches(unwrap(model)):
        del switch.branches[index]
    selection.remove(index)


def _sources(selection: DatasetSelection, init_from: DatasetKey | Sequence[DatasetKey] | None) -> list[int]:
    if init_from is None:
        return list(range(len(selection)))
    chosen = [init_from] if isinstance(init_from, int | str) else list(init_from)
    if not chosen:
        raise ValueError("init_from is empty; name at least one dataset, or leave it out for all of them")
    return [selection.index(dataset) for dataset in chosen]


def _check_num_classes(num_classes: int | None, has_heads: bool) -> None:
    if has_heads and (not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1):
        raise ValueError(f"every dataset has a classifier here: give num_classes >= 1, got {num_classes!r}")
    if not has_heads and num_classes is not None:
        raise ValueError("the datasets share their classifier here: leave num_classes out")


def _new_head(
    path: str,
    old: nn.Module,
    start: nn.Module | None,
    num_classes: int,
    head_factory: HeadFactory | None,
    memo: dict[int, Any],
) -> nn.Module:
    """Return a classifier for the new dataset: a copy of ``start`` if it fits, else one like ``old``."""
    fits = isinstance(start, LINEAR) and width_of(start) == num_classes
    if start is not None and fits:
        return copy_without_hooks(start, memo)
    if head_factory is not None:
        return head_factory(old, num_classes).train(old.training)
    check_classifier(path, old, [num_classes])
    return resize_classifier(old, num_classes)


@torch.no_grad()
def _average(branches: Sequence[nn.Module], memo: dict[int, Any]) -> nn.Module:
    """Return a norm with the mean of all parameters, and with the statistics of the union of the datasets."""
    average = copy_without_hooks(branches[0], memo)
    if len(branches) == 1:
        return average
    for modules in zip(average.modules(), *(branch.modules() for branch in branches), strict=True):
        parameters, *others = (dict(module.named_parameters(recurse=False)) for module in modules)
        for name, parameter in parameters.items():
            if parameter is not others[0][name]:
                parameter.copy_(torch.stack([other[name] for other in others]).mean(0))
        buffers, *others = (dict(module.named_buffers(recurse=False)) for module in modules)
        own = buffers.keys() >= {MEAN, VARIANCE} and buffers[MEAN] is not others[0][MEAN]
        if own:
            means, variances = (torch.stack([other[name] for other in others]) for name in (MEAN, VARIANCE))
            buffers[MEAN].copy_(means.mean(0))
            buffers[VARIANCE].copy_((variances + means.square()).mean(0) - means.mean(0).square())
    return average
