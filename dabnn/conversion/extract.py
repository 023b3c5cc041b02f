"""Take the plain model of one dataset out of a dataset-aware model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from torch import nn

from dabnn.conversion.libraries import LINEAR, allow_plain_saving, set_num_classes
from dabnn.layers import DatasetAwareBlock, DatasetAwareHead, DatasetSwitch
from dabnn.layers.batch_norm import move_hooks
from dabnn.selection import SELECTION_ATTRIBUTE, Dataset, find_selection, unwrap

INFO = "dabnn_info"
"""Attribute of a dataset-aware model that holds its `dabnn.models.ModelInfo`, if it was loaded with one."""
NORMALISATION = "input_normalisation"
"""Attribute of a plain model taken out of such a one: mean and standard deviation of its input images."""


def extract_dataset(model: nn.Module, dataset: Dataset, *, copy: bool = True) -> nn.Module:
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
    for switch in _switches(model):
        memo.update((id(b), placeholder) for b in switch.branches if b is not switch.branches[index])
    plain = _unswitch(deepcopy(model, memo), index)
    classifiers = {memo[id(layer)] for layer in _heads(model, index) if isinstance(layer, LINEAR)}
    info = vars(plain).pop(INFO, None)
    if info is not None:  # what `dabnn.preprocess` needs, without an object of dabnn
        vars(plain)[NORMALISATION] = (tuple(info.mean), tuple(info.std))
    for module in plain.modules():
        vars(module).pop(SELECTION_ATTRIBUTE, None)
        allow_plain_saving(module)
        set_num_classes(module, classifiers)
    return plain


def shared_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters used by every dataset: all that are not in a branch.

    Raises:
        NotDatasetAwareError: If the model was not converted.
    """
    find_selection(model)
    private = {id(t) for switch in _switches(model) for b in switch.branches for t in switch.private(b)}
    return (p for p in model.parameters() if id(p) not in private)


def branch_parameters(model: nn.Module, dataset: Dataset) -> Iterator[nn.Parameter]:
    """Yield the parameters of one dataset: its norms' and its classifier's.

    Raises:
        UnknownDatasetError: If the model does not know the dataset.
        NotDatasetAwareError: If the model was not converted.
    """
    index = find_selection(model).index(dataset)
    private = (t for switch in _switches(model) for t in switch.private(switch.branches[index]))
    return iter({id(t): t for t in private if isinstance(t, nn.Parameter)}.values())


def _switches(model: nn.Module) -> Iterator[DatasetSwitch]:
    return (module for module in model.modules() if isinstance(module, DatasetSwitch))


def _heads(model: nn.Module, index: int) -> Iterator[nn.Module]:
    return (switch.branches[index] for switch in _switches(model) if isinstance(switch, DatasetAwareHead))


def _unswitch(model: nn.Module, index: int) -> nn.Module:
    """Replace, in place, every switch by one of its branches and every block by a plain sequence."""
    modules = list(model.modules())
    plain: dict[nn.Module, nn.Module] = {}
    for module in modules:
        if isinstance(module, DatasetSwitch):
            plain[module] = module.branches[index]
        elif type(module) is DatasetAwareBlock:
            plain[module] = nn.Sequential(OrderedDict(module.named_children()))
            plain[module].training = module.training
    for old, new in plain.items():
        move_hooks(old, new)
    for parent in (*modules, *plain.values()):
        for name, child in parent._modules.items():
            if child in plain:
                parent._modules[name] = plain[child]
    return plain.get(model, model)
