"""Build a dataset-aware model again from what was stored of it."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dabnn.conversion.classifiers import head_width, width_of
from dabnn.conversion.convert import convert_to_dataset_aware
from dabnn.conversion.extract import extract_dataset
from dabnn.conversion.libraries import find_classifiers
from dabnn.conversion.plan import BATCH_NORMS
from dabnn.errors import ConfigError, DabnnError
from dabnn.layers import DatasetAwareBatchNorm, DatasetAwareHead
from dabnn.layers.surgery import drop_hooks, set_momentum
from dabnn.layers.switch import named_switches
from dabnn.models.stored.info import Build, ModelInfo
from dabnn.models.stored.source import source_of
from dabnn.selection import dataset_names, use_dataset

PROBES = (64, 224)
"""Sides of the images that a model and its rebuild are compared on; some models take the second only."""


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
        source=source_of(extract_dataset(model, 0, copy=False)),
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
        set_momentum(plain, build.momentum)
    types = tuple({type(modules[path]) for path in build.norms}) or BATCH_NORMS
    others = [n for n, module in modules.items() if isinstance(module, types) and n not in build.norms]
    return convert_to_dataset_aware(
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
    own = [head_width(model, name) for name in dataset_names(model)]
    if None not in own:
        return [width for width in own if width is not None]
    plain = extract_dataset(model, 0, copy=False)
    return [width_of(plain.get_submodule(find_classifiers(plain)[0]))] * len(own)


def check_rebuild(model: nn.Module, info: ModelInfo) -> None:
    """Refuse a model that could be saved, but not loaded again as it is; it is not changed.

    Compared are shapes, settings of layers and the outputs for one random image in eval mode, if the model
    takes such an image.

    Raises:
        ConfigError: If ``info`` builds another model.
    """
    refusal = "this model could be saved, but not built again"
    with torch.random.fork_rng():  # not on the meta device: some models cannot be built there
        try:
            new = rebuild(info)
        except DabnnError as error:
            raise ConfigError(f"{refusal}: {error}") from error
        own, other = (_facts(each) for each in (model, new))
        different = sorted(key for key in {*own, *other} if own.get(key) != other.get(key))
        if different:
            place = different[0]
            raise ConfigError(
                f"{refusal}: what its library builds differs at {len(different)} places, first {place!r}: "
                f"{other.get(place)} instead of {own.get(place)}; was it changed after it was built?"
            )
        new.load_state_dict(model.state_dict())
        if not _same_outputs(copy.deepcopy(model), new):
            raise ConfigError(
                f"{refusal}: what its library builds has the same layers, but other outputs; was an "
                "attribute or a method changed after it was built? Give such settings to its class instead"
            )


def _facts(model: nn.Module) -> dict[str, str]:
    """Return shapes of tensors and settings of layers, by path."""
    shapes = {key: str(tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
    return shapes | {
        path: f"{type(module).__name__}({module.extra_repr()})" for path, module in model.named_modules()
    }


def _same_outputs(model: nn.Module, new: nn.Module) -> bool:
    """Compare two models, which are changed, as far as ``model`` takes images of the sizes tried."""
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    for side in PROBES:
        images = torch.rand(1, channels, side, side)
        try:
            expected = _output(model, images)
        except Exception:  # each model refuses sizes in its own way
            continue
        try:
            torch.testing.assert_close(
                _output(new, images), expected, rtol=1e-2, atol=1e-4, equal_nan=True, check_stride=False
            )
        except Exception:
            return False
        return True
    return True


@torch.no_grad()
def _output(model: nn.Module, images: Tensor) -> Any:
    drop_hooks(model)  # those of the user have no business here
    model = model.cpu().float().to(memory_format=torch.contiguous_format).eval()
    torch.manual_seed(0)
    with warnings.catch_warnings(), use_dataset(model, 0):
        warnings.simplefilter("ignore")
        return model(images)
