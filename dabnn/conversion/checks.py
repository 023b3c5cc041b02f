"""What a model and its norms must be so that they can be converted; all is checked first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from dabnn.errors import ConversionError
from dabnn.layers import DatasetSwitch
from dabnn.layers.surgery import HOOKS, computing_hooks, is_compiled
from dabnn.selection import SELECTION_ATTRIBUTE

_PARALLEL = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}
_REGISTERED = {"_modules", "_parameters", "_buffers", *HOOKS}


def check_model(model: nn.Module) -> None:
    """Raise ConversionError if the model, or a module of it, is not a plain eager module."""
    if not isinstance(model, nn.Module):
        raise ConversionError(f"expected a torch.nn.Module, got {type(model).__name__}")
    for path, module in model.named_modules():
        where = f"{path or 'the model'} ({type(module).__name__})"
        bases = {cls.__name__ for cls in type(module).__mro__}
        if isinstance(module, torch.jit.ScriptModule):
            raise ConversionError(f"{where} is scripted; convert first, extract a dataset, then script that")
        if isinstance(module, DatasetSwitch):
            raise ConversionError(
                f"{where} is dataset-aware already, for {list(module.selection.names)}; convert a plain "
                "model, or take one with dabnn.extract_dataset"
            )
        if is_compiled(module):
            raise ConversionError(f"{where} is compiled; convert first, then compile")
        if bases & _PARALLEL:
            raise ConversionError(f"{where} is wrapped for parallel training; convert first, then wrap")
        if isinstance(module, LazyModuleMixin) and isinstance(module, _BatchNorm):
            raise ConversionError(f"{where} is lazy and has no size yet; run one forward pass first")
    if hasattr(model, SELECTION_ATTRIBUTE):
        raise ConversionError(
            f"{type(model).__name__} has an attribute {SELECTION_ATTRIBUTE!r} of its own, where dabnn keeps "
            "the selection; rename it"
        )


def check_sites(model: nn.Module, sites: Mapping[str, nn.Module]) -> None:
    """Check that a switch can stand in for every site (by path) wherever the model uses it.

    Raises:
        ConversionError: If a site computes its tensors in a hook, has a forward of its own that is bound to
            it, or is referred to outside the module tree: the model would silently go on with branch 0.
    """
    paths = {id(module): path for path, module in sites.items()}
    for path, module in sites.items():
        where = f"{path or 'the model'} ({type(module).__name__})"
        if computing := computing_hooks(module):
            raise ConversionError(
                f"{where}: its {computing[0]} hook computes the layer's tensors before each forward, so it "
                "cannot move to the switch; remove it first, or use torch.nn.utils.parametrizations"
            )
        if "forward" in vars(module):
            raise ConversionError(
                f"{where}: its forward was replaced on this instance, and a copy would still run the "
                "original's; convert first, or put the replacement in a subclass"
            )
    for parent_path, parent in model.named_modules():
        for name, value in vars(parent).items():
            if name in _REGISTERED:
                continue
            for module in _modules_in(value):
                if id(module) in paths and module is not parent:
                    raise ConversionError(
                        f"{'.'.join(filter(None, (parent_path, name)))} refers to {paths[id(module)]} "
                        f"({type(module).__name__}) outside the module tree, so it would go on using the "
                        "plain layer; use a torch.nn.ModuleList or ModuleDict, look the layer up when it is "
                        "needed, or keep the layer shared with skip="
                    )


def _modules_in(value: Any, depth: int = 4) -> Iterator[nn.Module]:
    """Yield the modules that an attribute holds, directly or in plain containers."""
    if isinstance(value, nn.Module):
        yield value
    elif depth and isinstance(value, Mapping):
        for item in value.values():
            yield from _modules_in(item, depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _modules_in(item, depth - 1)
