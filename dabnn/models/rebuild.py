"""Build a dataset-aware model again from what was stored of it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

import dabnn
from dabnn.adapters import named_switches
from dabnn.errors import CheckpointError
from dabnn.layers import DatasetAwareHead
from dabnn.libraries import find_classifiers, width_attribute
from dabnn.models.info import ModelInfo
from dabnn.plan import BATCH_NORMS
from dabnn.selection import find_selection


def rebuild(info: ModelInfo, keys: Sequence[str]) -> nn.Module:
    """Return a new dataset-aware model, with switches where the names of stored tensors have branches.

    Args:
        info: What is known of the model.
        keys: Names of its parameters and buffers.
    """
    norms, heads = _sites(keys, "bns"), _sites(keys, "heads")
    widths = [len(dataset.classes) for dataset in info.datasets.values()]
    plain = info.source.build(max(widths))
    modules = dict(plain.named_modules())
    lost = [site for site in (*norms, *heads) if site not in modules]
    if lost or not (norms or heads):
        raise CheckpointError(
            f"the weights do not belong to {info.source.name}: it has no {lost[:3] or 'norms'}"
        )
    types = tuple({type(modules[site]) for site in norms}) or BATCH_NORMS
    return dabnn.convert_to_dataset_aware(
        plain,
        dataset_names=list(info.datasets),
        num_classes=widths if heads else None,
        classifier=heads or None,
        norm_types=types,
        skip=[name for name, module in modules.items() if isinstance(module, types) and name not in norms],
        share_affine=info.share == "affine",
        share_statistics=info.share == "statistics",
    )


def _sites(keys: Sequence[str], branches: str) -> list[str]:
    """Return the paths of the modules that have branches, in the order of the names."""
    return list(dict.fromkeys(key.split(f".{branches}.")[0] for key in keys if f".{branches}." in key))


def widths_of(model: nn.Module) -> list[int]:
    """Return the number of classes of each dataset; of a shared classifier, its own for all."""
    heads = [switch for _, switch in named_switches(model) if isinstance(switch, DatasetAwareHead)]
    if heads:
        return [getattr(head, width_attribute(head)) for head in heads[0].branches]
    plain = dabnn.extract_dataset(model, 0, copy=False)
    path = find_classifiers(plain)[0]
    layer = plain.get_submodule(path)
    return [getattr(layer, width_attribute(layer))] * len(find_selection(model).names)
