"""Small models that hold what real ones do, and the comparisons that most tests make."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import dabnn
from dabnn.errors import ConversionError
from dabnn.layers.surgery import HOOKS


class ConvNet(nn.Module):
    """Two convolutions with batch norm, dropout and a classifier: (B, 3, H, W) to (B, classes, H, W)."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = norm(4)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.bn2 = norm(6)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Conv2d(6, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.classifier(self.dropout(x))


def without_beta(channels: int) -> nn.BatchNorm2d:
    """Batch norm as with ``bias=False``, which torch has since 2.12."""
    norm = nn.BatchNorm2d(channels)
    norm.register_parameter("bias", None)
    return norm


class TwiceNamed(nn.Module):
    """One batch norm under two names of the same parent."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.again = self.bn

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.conv(self.bn(x)))


class TwoParents(nn.Module):
    """One batch norm in two parents."""

    def __init__(self) -> None:
        super().__init__()
        bn = nn.BatchNorm2d(3)
        self.a = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), bn)
        self.b = nn.Sequential(nn.Conv2d(3, 3, 1), bn)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class Stubborn(nn.Module):
    """A parent that guards ``add_module`` and ``__setattr__``, as equivariant networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)
        self.closed = True

    def add_module(self, name: str, module: nn.Module | None) -> None:
        raise RuntimeError("no modules can be added")

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module) and getattr(self, "closed", False):
            raise RuntimeError("no modules can be set")
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


def image_batch(size: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def randomise(model: nn.Module) -> nn.Module:
    """Give every norm, inside switches too, its own statistics and affine parameters; return the model."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                for name in ("weight", "running_var"):
                    if getattr(module, name) is not None:
                        getattr(module, name).uniform_(0.5, 1.5)
                for name in ("bias", "running_mean"):
                    if getattr(module, name) is not None:
                        getattr(module, name).normal_()
    return model


def aware(model: nn.Module | None = None, n: int = 3, **kwargs: Any) -> nn.Module:
    """A converted model, in eval mode, whose branches all differ."""
    return randomise(dabnn.convert_to_dataset_aware(model or ConvNet(), n, **kwargs)).eval()


def seeded(model: Callable[..., Any], *inputs: Any) -> Any:
    """Forward with the same random numbers each time."""
    torch.manual_seed(7)
    return model(*inputs)


def on(model: nn.Module, dataset: int | str, *inputs: Any) -> Any:
    """Forward of one dataset, with the same random numbers each time."""
    with dabnn.use_dataset(model, dataset):
        return seeded(model, *inputs)


def assert_equal(a: Any, b: Any) -> None:
    """Bit for bit, also for tuples and dicts of tensors."""
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype
        assert a.device == b.device
        assert a.is_meta or torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def assert_drop_in(plain: nn.Module, *inputs: Any, n: int = 3, **kwargs: Any) -> nn.Module:
    """Convert a copy: in eval and in train mode each branch must give the outputs, gradients and buffers of
    the original, and leave the other branches alone. Returns the converted copy."""
    converted = dabnn.convert_to_dataset_aware(copy.deepcopy(plain), n, **kwargs)
    for (path, module), (_, twin) in zip(plain.named_modules(), _sites(plain, converted), strict=True):
        assert module.training == twin.training, path
    for training in (False, True):
        for i in range(n):
            reference = copy.deepcopy(plain).train(training)
            model = copy.deepcopy(converted).train(training)
            before = copy.deepcopy(model.state_dict())
            expected, actual = seeded(reference, *inputs), on(model, i, *inputs)
            assert_equal(actual, expected)
            extracted = dabnn.extract_dataset(model, i)
            assert_equal(extracted.state_dict(), reference.state_dict())  # buffers after the forward
            if isinstance(expected, Tensor) and expected.requires_grad:
                assert_equal(_gradients(reference, expected), _gradients(model, actual, i))
            for key, value in model.state_dict().items():
                branch = re.search(r"(?:^|\.)(?:bns|heads)\.(\d+)\.", key)
                if branch and int(branch[1]) != i:
                    assert_equal(value, before[key])
    return converted


def _sites(plain: nn.Module, converted: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a converted model that stand where the plain one has its own."""
    for path, _ in plain.named_modules():
        module = converted
        for name in path.split(".") if path else ():
            if isinstance(module, dabnn.DatasetSwitch):
                module = module.branches[0]
            module = getattr(module, name)
        yield path, module


def _gradients(model: nn.Module, output: Tensor, dataset: int | None = None) -> list[Tensor]:
    """Gradients of the parameters in use; those of other datasets must stay None."""
    output.float().square().sum().backward()
    if dataset is None:
        return [p.grad for p in model.parameters() if p.grad is not None]
    for other in range(len(dabnn.dataset_names(model))):
        if other != dataset:
            assert all(p.grad is None for p in dabnn.branch_parameters(model, other))
    return [p.grad for p in model.parameters() if p.grad is not None]


@contextmanager
def process_group() -> Iterator[None]:
    """A gloo group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


class Snapshot:
    """Remembers all that a failed conversion must leave as it was."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.state = _state(model)
        self.tensors = {name: id(tensor) for name, tensor in _tensors(model)}
        self.hooks = {
            (path, name): (id(vars(module)[name]), list(vars(module)[name].items()))
            for path, module in self.modules.items()
            if not isinstance(module, torch.jit.ScriptModule)
            for name in HOOKS
        }
        self.attributes = {path: set(vars(module)) for path, module in self.modules.items()}

    def assert_unchanged(self) -> None:
        after = Snapshot(self.model)
        assert self.modules.keys() == after.modules.keys()
        assert all(module is after.modules[path] for path, module in self.modules.items())
        assert_equal(self.state, after.state)
        assert self.tensors == after.tensors
        assert self.hooks == after.hooks
        assert self.attributes == after.attributes


def assert_refused(
    model: nn.Module, match: str, error: type[Exception] = ConversionError, **kwargs: Any
) -> None:
    """Neither the conversion nor its plan goes through, and the model stays as it was."""
    before = Snapshot(model)
    with pytest.raises(error, match=match):
        dabnn.convert_to_dataset_aware(model, 2, **kwargs)
    with pytest.raises(error, match=match):
        dabnn.plan_conversion(model, 2, **kwargs)
    before.assert_unchanged()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(model, torch.jit.ScriptModule):  # which makes new Python objects for each access
        yield from model.named_parameters()
        yield from model.named_buffers()


def _state(model: nn.Module) -> dict[str, Tensor]:
    lazy = nn.parameter.UninitializedTensorMixin
    return {k: v.clone() for k, v in model.state_dict().items() if not isinstance(v, lazy)}
