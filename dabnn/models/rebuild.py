"""Build a dataset-aware model again from what was stored of it."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import dabnn
from dabnn.adapters import named_switches
from dabnn.errors import ConfigError
from dabnn.layers import DatasetAwareBatchNorm, DatasetAwareHead
from dabnn.libraries import find_classifiers, width_attribute
from dabnn.models.info import Build, ModelInfo
from dabnn.models.source import source_of
from dabnn.plan import BATCH_NORMS
from dabnn.selection import find_selection


def build_of(model: nn.Module) -> Build:
    """Return how a converted model is built.

    Raises:
        ConfigError: If dabnn cannot tell.
    """
    switches = dict(named_switches(model))
    norms = {path: s for path, s in switches.items() if isinstance(s, DatasetAwareBatchNorm)}
    shares = {norm.share for norm in norms.values()}
    momenta = {m.momentum for m in model.modules() if isinstance(m, _BatchNorm)}
    return Build(
        source=source_of(dabnn.extract_dataset(model, 0, copy=False)),
        norms=tuple(norms),
        classifiers=tuple(path for path, s in switches.items() if isinstance(s, DatasetAwareHead)),
        share=shares.pop() if len(shares) == 1 else None,
        momentum=momenta.pop() if len(momenta) == 1 else None,
    )


def rebuild(info: ModelInfo) -> nn.Module:
    """Return a new dataset-aware model; uses torch's random state.

    Raises:
        ConfigError: If ``info`` does not say how, or the libraries cannot build it so.
    """
    build = info.build
    if build is None:
        raise ConfigError("it is not known how to build this model")
    widths = [len(dataset.classes) for dataset in info.datasets.values()]
    plain = build.source.build(max(widths))
    modules = dict(plain.named_modules())
    lost = [path for path in (*build.norms, *build.classifiers) if path not in modules]
    if lost:
        raise ConfigError(f"{build.source.name} of the installed {build.source.library} has no {lost[:3]}")
    if build.momentum is not None:
        for module in modules.values():
            if isinstance(module, _BatchNorm):
                module.momentum = build.momentum
    types = tuple({type(modules[path]) for path in build.norms}) or BATCH_NORMS
    others = [n for n, module in modules.items() if isinstance(module, types) and n not in build.norms]
    return dabnn.convert_to_dataset_aware(
        plain,
        dataset_names=list(info.datasets),
        num_classes=widths if build.classifiers else None,
        classifier=build.classifiers or None,
        norm_types=types,
        skip=others,
        share_affine=build.share == "affine",
        share_statistics=build.share == "statistics",
    )


def widths_of(model: nn.Module) -> list[int]:
    """Return the number of classes of each dataset; of a shared classifier, its own for all."""
    heads = [switch for _, switch in named_switches(model) if isinstance(switch, DatasetAwareHead)]
    if heads:
        return [getattr(head, width_attribute(head)) for head in heads[0].branches]
    plain = dabnn.extract_dataset(model, 0, copy=False)
    layer = plain.get_submodule(find_classifiers(plain)[0])
    return [getattr(layer, width_attribute(layer))] * len(find_selection(model).names)
