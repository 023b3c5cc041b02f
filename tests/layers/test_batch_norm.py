from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from toy_models import ConvNet, image_batch, on

import dabnn
from dabnn import DatasetAwareBatchNorm, DatasetSelection


@pytest.fixture
def selection() -> DatasetSelection:
    return DatasetSelection(["a", "b", "c"])


def test_the_first_branch_is_the_norm_itself(selection) -> None:
    norm = nn.BatchNorm2d(4, eps=1e-3, momentum=0.3)
    norm.weight.data.uniform_()
    switch = DatasetAwareBatchNorm.from_norm(norm, selection)
    assert switch.bns[0] is norm
    assert len(switch.bns) == 3
    for other in switch.bns[1:]:
        assert type(other) is nn.BatchNorm2d
        assert (other.eps, other.momentum) == (1e-3, 0.3)
        assert torch.equal(other.weight, norm.weight)
        assert other.weight.data_ptr() != norm.weight.data_ptr()


def test_it_is_no_batch_norm_itself(selection) -> None:
    switch = DatasetAwareBatchNorm.from_norm(nn.BatchNorm2d(4), selection)
    assert not isinstance(switch, _BatchNorm)
    assert sum(isinstance(m, _BatchNorm) for m in switch.modules()) == 3


def test_each_dataset_has_its_own_mean_and_variance(selection) -> None:
    """Eq. 1 and 2 of the paper: the statistics of a dataset are those of its own samples."""
    switch = DatasetAwareBatchNorm.from_norm(nn.BatchNorm2d(2, momentum=None), selection)
    batches = [torch.randn(8, 2, 5, 5) * (i + 1) + i for i in range(3)]
    for i, x in enumerate(batches):
        switch.selection.active = i
        y = switch(x)
        torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.var((0, 2, 3), correction=0), torch.ones(2), atol=1e-3, rtol=0)
    for bn, x in zip(switch.bns, batches, strict=True):
        torch.testing.assert_close(bn.running_mean, x.mean((0, 2, 3)))
        torch.testing.assert_close(bn.running_var, x.var((0, 2, 3)))


def test_keys_are_those_of_dsbn_checkpoints(selection) -> None:
    switch = DatasetAwareBatchNorm.from_norm(nn.BatchNorm1d(4), selection)
    assert [key for key in switch.state_dict() if "running_mean" in key] == [
        f"bns.{i}.running_mean" for i in range(3)
    ]


def test_a_single_dataset_needs_no_copy() -> None:
    norm = nn.BatchNorm2d(4)
    switch = DatasetAwareBatchNorm.from_norm(norm, DatasetSelection(["only"]))
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(switch.eval()(x), norm(x))


def test_hooks_of_the_norm_are_not_copied_and_those_inside_are_shared(selection) -> None:
    norm = BatchNormAct2d(4)
    fired: list[str] = []
    norm.register_forward_hook(lambda *_: fired.append("norm"))
    handle = norm.act.register_forward_hook(lambda *_: fired.append("act"))
    switch = DatasetAwareBatchNorm.from_norm(norm, selection)
    switch.selection.active = 1
    switch(torch.randn(2, 4, 3, 3))
    assert fired == ["act"]
    switch.bns[2].drop.register_forward_hook(lambda *_: fired.append("drop of c only"))
    handle.remove()
    switch(torch.randn(2, 4, 3, 3))
    assert fired == ["act"]


def test_what_a_hook_is_bound_to_is_not_copied() -> None:
    class Collector:
        def __init__(self) -> None:
            self.seen: list[torch.Tensor] = []

        def collect(self, module, args, output) -> None:
            self.seen.append(output)

        def __deepcopy__(self, memo):
            raise AssertionError("copied")

    model = ConvNet(BatchNormAct2d)
    site, inner = Collector(), Collector()
    model.bn1.register_forward_hook(site.collect)
    handle = model.bn1.act.register_forward_hook(inner.collect)
    dabnn.convert_to_dataset_aware(model, 3)
    for i in range(3):
        on(model, i, image_batch())
    assert len(site.seen) == len(inner.seen) == 3
    handle.remove()
    on(model, 1, image_batch())
    assert len(inner.seen) == 3
