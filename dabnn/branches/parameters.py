"""Which parameters belong to all datasets, and which to one: for freezing and optimizer groups."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from dabnn.layers.switch import named_switches
from dabnn.selection import DatasetKey, find_selection


def shared_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters used by every dataset: all that are not in a branch.

    Raises:
        NotDatasetAwareError: If the model was not converted.
    """
    find_selection(model)
    private = {
        id(t) for _, switch in named_switches(model) for b in switch.branches for t in switch.private(b)
    }
    return (p for p in model.parameters() if id(p) not in private)


def branch_parameters(model: nn.Module, dataset: DatasetKey) -> Iterator[nn.Parameter]:
    """Yield the parameters of one dataset: its norms' and its classifier's.

    Raises:
        UnknownDatasetError: If the model does not know the dataset.
        NotDatasetAwareError: If the model was not converted.
    """
    index = find_selection(model).index(dataset)
    private = (t for _, switch in named_switches(model) for t in switch.private(switch.branches[index]))
    return iter({id(t): t for t in private if isinstance(t, nn.Parameter)}.values())
