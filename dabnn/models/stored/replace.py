"""Give a loaded model other datasets than those it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from dabnn.branches.add_remove import add_dataset, remove_dataset
from dabnn.conversion.attached import attach_info
from dabnn.models.stored.folder import info_of
from dabnn.models.stored.info import DatasetInfo
from dabnn.selection import find_selection


def replace_datasets(model: nn.Module, names: Sequence[str], num_classes: Sequence[int] | None) -> None:
    """Give a model other datasets, in place."""
    info = info_of(model)
    before = dict(info.datasets)
    shared = info.build is not None and not info.build.classifiers
    first = next(iter(before.values()))
    datasets = {}
    for number, (name, width) in enumerate(_widths(before, names, num_classes, shared).items()):
        kept = name in before and len(before[name].classes) == width
        add_dataset(
            model,
            f"new {number}",
            num_classes=None if shared else width,
            init_from=name if kept else list(before),
        )
        new = DatasetInfo(first.classes, first.palette) if shared else DatasetInfo.numbered(width)
        datasets[name] = before[name] if kept else new
    for name in before:
        remove_dataset(model, name)
    find_selection(model).rename(names)
    attach_info(model, replace(info, datasets=datasets))


def _widths(
    before: Mapping[str, DatasetInfo], names: Sequence[str], num_classes: Sequence[int] | None, shared: bool
) -> dict[str, int]:
    """Return the number of classes of each dataset to have, as far as the user need not say it."""
    known = {name: len(dataset.classes) for name, dataset in before.items()}
    common = next(iter(known.values())) if shared else 0
    if num_classes is None:
        found = {name: common or known.get(name, 0) for name in names}
        unknown = [name for name, width in found.items() if not width]
        if unknown:
            raise ValueError(
                f"the model does not know {unknown}, only {known}: give num_classes too, one number for each "
                "name"
            )
        num_classes = [found[name] for name in names]
    elif shared and set(num_classes) != {common}:
        raise ValueError(f"the datasets share a classifier of {common} classes here: leave num_classes out")
    if not names or len(names) != len(num_classes) or len(set(names)) != len(names):
        raise ValueError("give dataset_names, each once, and num_classes, one number for each name")
    return dict(zip(names, num_classes, strict=True))
