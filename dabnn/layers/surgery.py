"""Whatever reaches into modules of torch, private parts included: copies, hooks, replacement, modes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""Attributes in which a module keeps the hooks of its calls."""

Slot = tuple[dict[str, Any], str]
"""Where a module keeps a tensor: the tensor itself may be replaced, as ``to`` does with buffers."""


def copy_without_hooks(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of ``module`` that carries none of its forward and backward hooks.

    Modules inside it that have hooks share them with their copy: a hook and whatever it is bound to is
    never copied, and a handle removes it from both.
    """
    memo = {} if memo is None else memo
    for inner in module.modules():
        for name in HOOKS:
            hooks = vars(inner)[name]
            memo[id(hooks)] = hooks if hooks and inner is not module else OrderedDict()
    return copy.deepcopy(module, memo)


def memo_outside(model: nn.Module, parts: Iterable[nn.Module]) -> dict[int, Any]:
    """Return a memo for `copy_without_hooks`: copies of ``parts`` share the model's other modules."""
    inside = {id(module) for part in parts for module in part.modules()}
    return {id(module): module for module in model.modules() if id(module) not in inside}


def move_hooks(source: nn.Module, target: nn.Module) -> None:
    """Move hooks to another module, before its own; handles that the user holds keep working.

    Both modules are changed: ``source`` ends without hooks.
    """
    for name in HOOKS:
        hooks = vars(source)[name]
        hooks.update(vars(target)[name])
        vars(target)[name] = hooks
        vars(source)[name] = OrderedDict()
    if source._is_full_backward_hook is not None:
        target._is_full_backward_hook = source._is_full_backward_hook
    source._is_full_backward_hook = None


def drop_hooks(model: nn.Module) -> None:
    """Take all hooks off the modules of a model, in place; handles of theirs do nothing afterwards."""
    for module in model.modules():
        vars(module).update((name, OrderedDict()) for name in HOOKS)


def computing_hooks(module: nn.Module) -> list[str]:
    """Return the kinds of torch's own hooks that compute a module's tensors before each forward."""
    kinds = (type(hook) for hook in module._forward_pre_hooks.values())
    return [kind.__name__ for kind in kinds if kind.__module__.startswith("torch.nn.utils.")]


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module was compiled, in place or by a wrapper."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def tensor_slots(model: nn.Module) -> list[Slot]:
    """Return where the tensors of a model's state dict are kept, each tensor once."""
    found: dict[int, Slot] = {}
    for module in model.modules():
        kept = {n: b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set}
        for owner, tensors in ((module._parameters, module._parameters), (module._buffers, kept)):
            for name, tensor in tensors.items():
                if isinstance(tensor, Tensor):
                    found.setdefault(id(tensor), (owner, name))
    return list(found.values())


def replace_modules(root: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put every replacement where its original is used, at each place of a shared instance, in place.

    Children of the replacements are replaced too. This goes past any ``__setattr__`` or ``add_module`` of the
    user's classes, which could stop half-way.

    Returns:
        The root, or its replacement.
    """
    by_id = {id(old): new for old, new in replacements.items()}
    for parent in (*root.modules(), *replacements.values()):
        for name, child in parent._modules.items():
            if id(child) in by_id:
                parent._modules[name] = by_id[id(child)]
    return by_id.get(id(root), root)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode for a while, then give each module back its own training flag.

    ``model.train()`` would not do: it would wake layers that the user froze with ``layer.eval()``.
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU if it has none."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def set_momentum(model: nn.Module, momentum: float) -> None:
    """Give all batch norms of a model one momentum, in place."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum


def has_statistics(module: nn.Module) -> bool:
    """Return whether a module keeps a buffer of running statistics, be it a norm of torch or not."""
    return any(name.startswith("running_") and buffer is not None for name, buffer in module._buffers.items())


def statistics_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return running mean and variance (C,), themselves, of a norm that keeps them.

    Raises:
        TypeError: If it is no norm of torch that keeps them.
    """
    if not isinstance(norm, _NormBase) or norm.running_mean is None or norm.running_var is None:
        raise TypeError(f"{type(norm).__name__} keeps no running statistics")
    return norm.running_mean, norm.running_var
