"""Names of models: architectures, and the weights that there are for them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from importlib.resources import files
from typing import Any

from torch import nn

from dabnn.data.labels.spaces import load_space
from dabnn.errors import UnknownModelError
from dabnn.models.stored.info import IMAGENET_MEAN, IMAGENET_STD, PAPER, DatasetInfo, ModelInfo

Architecture = Callable[..., nn.Module]
"""Builds a plain model from ``num_classes`` and further keyword arguments."""

_ARCHITECTURES: dict[str, tuple[Architecture, Mapping[str, Any]]] = {}


@dataclass(frozen=True)
class Entry:
    """A model with a name, as ``zoo.json`` lists it.

    Of weights inside the package ``config.json`` beside them says the rest: such an entry has a name, an
    alias, a folder and a checksum only.

    Attributes:
        name: ``architecture.tag``.
        alias: Short name.
        folder: Folder of the weights inside the package, or None.
        repo: Repository of the weights on the Hugging Face Hub, or None.
        sha256: Checksum of the weights; no others are loaded by this name.
        arguments: Arguments of the architecture that differ from its own defaults.
        datasets: The label space of each dataset, see `dabnn.data.list_spaces`.
        mean: Mean of each RGB channel of the input images in [0, 1].
        std: Standard deviation of each channel.
        paper: What it implements.
    """

    name: str
    alias: str
    folder: str | None = None
    repo: str | None = None
    sha256: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    datasets: Mapping[str, str] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    paper: str = PAPER

    @property
    def architecture(self) -> str:
        """Name of the architecture."""
        return self.name.partition(".")[0]

    @property
    def pretrained(self) -> bool:
        """Whether there are weights."""
        return self.folder is not None or self.repo is not None

    def describe(self) -> ModelInfo:
        """Return what ``zoo.json`` says of the model."""
        spaces = {name: load_space(space) for name, space in self.datasets.items()}
        datasets = {name: DatasetInfo(space.classes, space.palette) for name, space in spaces.items()}
        return ModelInfo(datasets, self.mean, self.std, name=self.name, paper=self.paper)


def register_model(function: Architecture | None = None, **convert: Any) -> Any:
    """Register an architecture under the name of a function, as a decorator.

    Args:
        function: ``function(num_classes, **arguments)`` returns the plain model.
        convert: How it is converted, as options of `dabnn.convert_to_dataset_aware`.

    Raises:
        ValueError: There is another architecture of that name.
    """

    def register(function: Architecture) -> Architecture:
        name = function.__name__
        known = _ARCHITECTURES.get(name)
        if known is not None and known[0].__module__ != function.__module__:
            raise ValueError(f"there is an architecture {name!r} already, in {known[0].__module__}")
        _ARCHITECTURES[name] = (function, convert)
        return function

    return register if function is None else register(function)


def architecture(name: str) -> tuple[Architecture, Mapping[str, Any]]:
    """Return the function of an architecture, and how it is converted.

    Raises:
        UnknownModelError: There is none of that name.
    """
    if name not in _ARCHITECTURES:
        raise unknown(name)
    return _ARCHITECTURES[name]


@cache
def entries() -> dict[str, Entry]:
    """Return all entries of ``zoo.json`` by name."""
    listed = json.loads((files("dabnn.models") / "zoo.json").read_text(encoding="utf-8"))
    return {name: Entry(name, **content) for name, content in listed.items()}


def find_entry(name: str) -> Entry | None:
    """Return the entry of a name or alias, if there is one."""
    return next((entry for entry in entries().values() if name in (entry.name, entry.alias)), None)


def list_models(filter: str = "*", *, pretrained: bool = False) -> list[str]:
    """Return the names of models, sorted: architectures, and ``architecture.tag`` of those with weights.

    Args:
        filter: A shell pattern such as ``"*r18*"``; of a model with an alias, either name may match it.
        pretrained: Only names that `dabnn.from_pretrained` can load.
    """
    listed = [entry for entry in entries().values() if entry.pretrained or not pretrained]
    names = {entry.name for entry in listed if fnmatch(entry.name, filter) or fnmatch(entry.alias, filter)}
    if not pretrained:
        names |= {name for name in _ARCHITECTURES if fnmatch(name, filter)}
    return sorted(names)


def unknown(name: str) -> UnknownModelError:
    """Return the error for a name that there is no model of, with the nearest names."""
    if name in _ARCHITECTURES:
        tagged = [entry.name for entry in entries().values() if entry.architecture == name]
        return UnknownModelError(f"{name!r} is an architecture; names of weights for it: {tagged or 'none'}")
    aliases = [entry.alias for entry in entries().values()]
    near = difflib.get_close_matches(name, [*aliases, *list_models()], n=3, cutoff=0.3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(list_models())}"
    return UnknownModelError(f"unknown model {name!r}; {hint}")
