"""Take the plain model of one dataset out of a dataset-aware model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from torch import nn

from dabnn.conversion.attached import leave_normalisation
from dabnn.conversion.classifiers import LINEAR
from dabnn.conversion.libraries import allow_plain_saving, set_num_classes
from dabnn.layers import DatasetAwareBlock, DatasetAwareHead, DatasetSwitch
from dabnn.layers.surgery import move_hooks, replace_modules
from dabnn.layers.switch import named_switches
from dabnn.selection import SELECTION_ATTRIBUTE, DatasetKey, find_selection, unwrap


def extract_dataset(model: nn.Module, dataset: DatasetKey, *, copy: bool = True) -> nn.Module:
    """Return the plain model of one dataset: the original class, with no dabnn module left in it.

    Its state-dict keys are those of the model before conversion, so the original library saves, loads,
    exports and fuses it. ``model`` is not changed. A `dabnn.DatasetAwareBlock` becomes a
    `torch.nn.Sequential` with the same keys; a subclass of it keeps its class, and its norm becomes plain.

    Args:
        model: A converted model; wrappers (DDP, `torch.compile`, EMA) are taken off.
        dataset: Name or index of the dataset.
        copy: Copy all tensors. With False the plain model shares its parameters and buffers with
            ``model``: N datasets are served for the memory of one, each by a module tree of its own, so
            that threads do not disturb each other; training one changes both.

    Returns:
        A model with the train/eval modes and hooks of the original.

    Raises:
        UnknownDatasetError: If the model does not know the dataset.
        NotDatasetAwareError: If the model was not converted.
    """
    index = find_selection(model).index(dataset)
    model = unwrap(model)
    memo: dict[int, Any] = {}
    if not copy:
        memo.update((id(tensor), tensor) for tensor in (*model.parameters(), *model.buffers()))
    placeholder = nn.Identity()  # the other datasets' branches go with their switch: no need to copy them
    for _, switch in named_switches(model):
        memo.update((id(b), placeholder) for b in switch.branches if b is not switch.branches[index])
    plain = _unswitch(deepcopy(model, memo), index)
    classifiers = {memo[id(layer)] for layer in _heads(model, index) if isinstance(layer, LINEAR)}
    leave_normalisation(plain)
    for module in plain.modules():
        vars(module).pop(SELECTION_ATTRIBUTE, None)
        allow_plain_saving(module)
        set_num_classes(module, classifiers)
    return plain


def _heads(model: nn.Module, index: int) -> Iterator[nn.Module]:
    return (
        switch.branches[index] for _, switch in named_switches(model) if isinstance(switch, DatasetAwareHead)
    )


def _unswitch(model: nn.Module, index: int) -> nn.Module:
    """Replace, in place, every switch by one of its branches and every block by a plain sequence."""
    plain: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, DatasetSwitch):
            plain[module] = module.branches[index]
        elif type(module) is DatasetAwareBlock:
            plain[module] = nn.Sequential(OrderedDict(module.named_children()))
            plain[module].training = module.training
    for old, new in plain.items():
        move_hooks(old, new)
    return replace_modules(model, plain)
