"""What must hold for an architecture of the catalogue once it is converted.

The matrix tests and ``benchmarks/coverage.py`` share these functions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from catalogue import Architecture, example_inputs
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

import dabnn
from dabnn.conversion.libraries import find_classifiers
from dabnn.errors import ClassifierNotFoundError, NoBatchNormFoundError


@dataclass(frozen=True)
class Structure:
    """What `check_structure` found.

    Attributes:
        status: "converted", "no batch norm", "failed", or "refused" when the library itself cannot build it.
        n_bn: Number of batch norms.
        n_classifiers: Number of layers that get one branch per dataset with ``num_classes``.
        reason: What failed, or why a part of the matrix does not apply.
        n_params: Number of parameters.
    """

    status: str
    n_bn: int = 0
    n_classifiers: int = 0
    reason: str = ""
    n_params: int = 0


def smallest(architectures: Iterable[Architecture]) -> Architecture | None:
    """Return the architecture with batch norms that has the fewest parameters, None where there is none."""
    found = [(check_structure(a).n_params, a.name, a) for a in architectures if check_structure(a).n_bn]
    return min(found)[2] if found else None


@cache
def check_structure(architecture: Architecture) -> Structure:
    """Convert for 3 datasets and extract every one again, with shared and with private classifiers.

    Private classifiers are right when an extracted model has the state dict, and the ``num_classes``
    attributes, that the library itself gives a model of that many classes. Nothing is raised: what
    goes wrong is the status "failed" with its reason.
    """
    try:
        model = architecture.skeleton()
    except ValueError as error:
        return Structure("refused", reason=f"{architecture.library}: {error}")
    n_bn = sum(isinstance(module, _BatchNorm) for module in model.modules())
    n_params = sum(parameter.numel() for parameter in model.parameters())
    try:
        if n_bn == 0:
            _check_refused(model)
            return Structure("no batch norm", n_params=n_params)
        _check_shared_classifier(model, n_bn)
        try:
            n_classifiers, reason = _check_private_classifiers(architecture), ""
        except ClassifierNotFoundError as error:
            n_classifiers, reason = 0, f"norms only: {error}"
    except Exception as error:
        return Structure("failed", n_bn, reason=f"{type(error).__name__}: {error}", n_params=n_params)
    return Structure("converted", n_bn, n_classifiers, reason, n_params)


def _check_refused(model: nn.Module) -> None:
    before = signature(model)
    try:
        dabnn.convert_to_dataset_aware(model, 3)
    except NoBatchNormFoundError:
        assert signature(model) == before, "refused, but changed"
    else:
        raise AssertionError("a model without batch norm was converted")


def _check_shared_classifier(model: nn.Module, n_bn: int) -> None:
    kind, before = type(model), signature(model)
    aware = dabnn.convert_to_dataset_aware(model, 3)
    n_aware = sum(isinstance(module, dabnn.DatasetAwareBatchNorm) for module in aware.modules())
    assert n_aware == n_bn, f"{n_aware} of {n_bn} batch norms were converted"
    for i in range(3):
        plain = dabnn.extract_dataset(aware, i)
        assert type(plain) is kind, f"dataset {i} was extracted as {type(plain)}"
        assert signature(plain) == before, f"dataset {i} was extracted with another state dict"


def _check_private_classifiers(architecture: Architecture) -> int:
    model = architecture.skeleton()
    if getattr(model, "num_classes", None) == 0:
        model = architecture.skeleton(10)  # headless unless told otherwise
    paths, before = find_classifiers(model), signature(model)
    (width,) = {model.get_submodule(path).weight.shape[0] for path in paths}
    aware = dabnn.convert_to_dataset_aware(model, 3, num_classes=[7, 5, width])
    smaller, same = dabnn.extract_dataset(aware, 0), dabnn.extract_dataset(aware, 2)
    assert signature(same) == before, "extracted with another state dict"
    expected = architecture.skeleton(7)
    assert type(smaller) is type(expected), f"extracted as {type(smaller)}"
    different = set(signature(smaller)) ^ set(signature(expected))
    assert signature(smaller) == signature(expected), f"not as the library builds it: {sorted(different)[:4]}"
    ours, theirs = _class_counts(smaller), _class_counts(expected)
    assert ours == theirs, f"class counts {ours}, the library has {theirs}"
    return len(paths)


def signature(model: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    """Return the state dict's keys in order, with shapes and types."""
    return [(key, tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()]


def _class_counts(model: nn.Module) -> dict[str, Any]:
    """Return all numbers of classes that a model keeps for itself, by module path; SMP's under "config"."""
    counts = {path: vars(module).get("num_classes") for path, module in model.named_modules()}
    counts["config"] = getattr(model, "config", {}).get("classes")
    return {path: count for path, count in counts.items() if count is not None}


def check_branches(architecture: Architecture) -> None:
    """Compare every branch with the original, bit for bit: outputs in eval and train mode, state afterwards.

    Weights, statistics and images are random; random layers draw the same numbers in all models.

    Raises:
        AssertionError: If anything differs.
    """
    torch.manual_seed(0)
    model = architecture.build()
    inputs = example_inputs(architecture, model)
    _randomise_norms(model)
    original = copy.deepcopy(model)
    try:
        width = model.get_submodule(find_classifiers(model)[0]).weight.shape[0]
    except ClassifierNotFoundError:
        width = None
    aware = dabnn.convert_to_dataset_aware(model, 3, num_classes=[width] * 3 if width else None)
    for training in (False, True):
        reference = copy.deepcopy(original).train(training)
        expected = _forward(reference, inputs)
        for i in range(3):
            with dabnn.use_dataset(aware, i):
                actual = _forward(aware.train(training), inputs)
            _check_equal(actual, expected, f"branch {i}, training={training}")
            state = dabnn.extract_dataset(aware, i, copy=False).state_dict()
            _check_equal(state, reference.state_dict(), f"state of branch {i}, training={training}")


def check_widths(architecture: Architecture, num_classes: tuple[int, int, int]) -> list[Any]:
    """Convert with private classifiers and check that every branch gives its own number of classes.

    Returns:
        The outputs in eval mode, one per dataset.
    """
    torch.manual_seed(0)
    model = architecture.build()
    inputs = example_inputs(architecture, model)
    aware = dabnn.convert_to_dataset_aware(model.eval(), 3, num_classes=num_classes)
    outputs = []
    for i, number in enumerate(num_classes):
        with dabnn.use_dataset(aware, i):
            outputs.append(_forward(aware, inputs))
        widths = {tensor.shape[1] for tensor in pytree.tree_leaves(outputs[-1])}
        assert widths == {number}, f"branch {i} gives {widths} classes, expected {number}"
    return outputs


def _forward(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        return model(*copy.deepcopy(inputs))


def _check_equal(actual: Any, expected: Any, what: str) -> None:
    actual_leaves, actual_tree = pytree.tree_flatten(actual)
    expected_leaves, expected_tree = pytree.tree_flatten(expected)
    assert actual_tree == expected_tree, f"{what}: other structure"
    for ours, theirs in zip(actual_leaves, expected_leaves, strict=True):
        assert torch.equal(ours, theirs), f"{what} differs by {(ours - theirs).abs().max()}"


@torch.no_grad()
def _randomise_norms(model: nn.Module) -> None:
    """Give all batch norms weights and statistics that no fresh one has."""
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            for scale in (norm.weight, norm.running_var):
                if scale is not None:
                    scale.uniform_(0.5, 1.5)
            for shift in (norm.bias, norm.running_mean):
                if shift is not None:
                    shift.normal_(0, 0.1)
