"""Build a model of the zoo by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dabnn.conversion.convert import convert_to_dataset_aware
from dabnn.models import architectures  # noqa: F401 (registers them)
from dabnn.models.hub.load import from_pretrained, get_pretrained_cfg
from dabnn.models.registry import architecture, find_entry


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    dataset_names: Sequence[str] | None = None,
    num_classes: Sequence[int] | None = None,
    **arguments: Any,
) -> nn.Module:
    """Return a dataset-aware model of the zoo, in train mode.

    Args:
        name: An architecture, an ``architecture.tag`` or an alias of `dabnn.list_models`.
        pretrained: Load its weights, as `dabnn.from_pretrained` does.
        dataset_names: Names of the datasets; left out, those that the weights of that name are of.
        num_classes: Number of classes of each dataset.
        arguments: Further arguments of the architecture, instead of those that a name stands for; without
            weights only.

    Raises:
        UnknownModelError: There is no model of that name.
        ValueError: The datasets are not known, or names and numbers do not fit.
    """
    if pretrained:
        if arguments:
            raise ValueError(f"weights are of one architecture, without {sorted(arguments)}")
        return from_pretrained(name, dataset_names=dataset_names, num_classes=num_classes).train()
    entry = find_entry(name)
    build, convert = architecture(entry.architecture if entry is not None else name)
    if entry is not None:
        info = entry.describe() if entry.folder is None else get_pretrained_cfg(name)
        arguments = {**(entry.arguments if info.build is None else info.build.source.arguments), **arguments}
        if dataset_names is None and num_classes is None:
            dataset_names = list(info.datasets)
            num_classes = [len(dataset.classes) for dataset in info.datasets.values()]
    if dataset_names is None or num_classes is None or len(dataset_names) != len(num_classes):
        raise ValueError("give dataset_names and num_classes, one number for each name")
    plain = build(max(num_classes), **arguments)
    return convert_to_dataset_aware(plain, dataset_names=dataset_names, num_classes=num_classes, **convert)
