from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_models import aware, image_batch

from dabnn import DatasetSelection, DatasetSwitch
from dabnn.errors import CheckpointError, FusedForwardError, NoActiveDatasetError


@pytest.fixture
def switch() -> DatasetSwitch:
    return DatasetSwitch([nn.Linear(3, 2), nn.Linear(3, 4)], DatasetSelection(["a", "b"]))


def test_it_runs_the_branch_of_the_active_dataset(switch) -> None:
    with pytest.raises(NoActiveDatasetError):
        switch(torch.zeros(1, 3))
    for i in range(2):
        switch.selection.active = i
        assert torch.equal(switch(torch.ones(1, 3)), switch.branches[i](torch.ones(1, 3)))
        assert torch.equal(switch(input=torch.ones(1, 3)), switch.branches[i](torch.ones(1, 3)))


def test_it_passes_on_whatever_the_layer_takes_and_gives() -> None:
    class Pair(nn.Module):
        def forward(self, x, *, flip=False):
            return (x, -x) if flip else {"x": x}

    switch = DatasetSwitch([Pair(), Pair()], DatasetSelection(["a", "b"]))
    switch.selection.active = 0
    assert [y.item() for y in switch(torch.ones(1), flip=True)] == [1, -1]
    assert switch(torch.ones(1))["x"].item() == 1


def test_one_branch_per_dataset() -> None:
    with pytest.raises(ValueError, match=r"1 branches for 2 datasets \['a', 'b'\]"):
        DatasetSwitch([nn.Identity()], DatasetSelection(["a", "b"]))


def test_keys_carry_the_branch(switch) -> None:
    assert list(switch.state_dict()) == [
        f"branches.{i}.{name}" for i in range(2) for name in ("weight", "bias")
    ]


def test_constants_on_which_the_branches_agree_can_be_read(switch) -> None:
    assert switch.in_features == 3


def test_constants_that_differ_are_those_of_the_active_dataset(switch) -> None:
    with pytest.raises(AttributeError, match=r"'out_features' differs between datasets \(\[2, 4\]\)"):
        _ = switch.out_features
    switch.selection.active = 1
    assert switch.out_features == 4


@pytest.mark.parametrize("name", ["weight", "bias", "reset_parameters"])
def test_tensors_and_methods_are_not_forwarded(switch, name) -> None:
    switch.selection.active = 0
    with pytest.raises(AttributeError, match=f"'{name}' exists once per dataset.*extract_dataset"):
        getattr(switch, name)
    assert not hasattr(switch, name)


def test_unknown_attributes_are_reported_as_usual(switch) -> None:
    with pytest.raises(AttributeError, match="'DatasetSwitch' object has no attribute 'colour'"):
        _ = switch.colour
    assert not hasattr(switch, "_private")


@pytest.mark.parametrize("name", ["in_features", "out_features", "weight"])
def test_setting_what_belongs_to_the_branches_raises(switch, name) -> None:
    with pytest.raises(AttributeError, match=r"exists once per dataset here: set it on each of \.branches"):
        setattr(switch, name, 7)
    with pytest.raises(AttributeError, match="exists once per dataset"):
        switch.weight = nn.Parameter(torch.zeros(1))


def test_its_own_attributes_can_be_set(switch) -> None:
    switch.note = "stem"
    assert switch.note == "stem"
    switch.forward = lambda x: x  # as libraries do that wrap forwards
    assert switch(torch.ones(1)).item() == 1


def test_its_own_mode_is_not_consulted() -> None:
    model = aware().train()
    for bn in model.bn1.bns:
        bn.eval()
    before = model.bn1.bns[0].running_mean.clone()
    model.bn1.selection.active = 0
    assert model.bn1.training
    model.bn1(image_batch().repeat(1, 2, 1, 1)[:, :4])
    assert torch.equal(model.bn1.bns[0].running_mean, before)


def test_modes_follow_train_and_eval(switch) -> None:
    switch.eval()
    assert not any(module.training for module in switch.modules())
    switch.train()
    assert all(module.training for module in switch.modules())


def test_a_switch_of_eval_branches_is_in_eval_mode() -> None:
    switch = DatasetSwitch([nn.Identity().eval(), nn.Identity().eval()], DatasetSelection(["a", "b"]))
    assert not any(module.training for module in switch.modules())


def test_a_plain_state_dict_is_broadcast() -> None:
    switch = DatasetSwitch([nn.Linear(3, 2), nn.Linear(3, 2)], DatasetSelection(["a", "b"]))
    plain = nn.Linear(3, 2)
    switch.load_state_dict(plain.state_dict())
    for branch in switch.branches:
        assert torch.equal(branch.weight, plain.weight)
        assert branch.weight.data_ptr() != plain.weight.data_ptr()


def test_another_number_of_branches_is_refused(switch) -> None:
    state = {f"branches.{i}.{k}": v for i in range(3) for k, v in nn.Linear(3, 2).state_dict().items()}
    with pytest.raises(CheckpointError, match=r"the module: the checkpoint holds 3 datasets, the model 2"):
        switch.load_state_dict(state)


def test_it_prints_the_datasets(switch) -> None:
    assert "DatasetSwitch(\n  a, b\n" in repr(switch)


def test_segments_run_each_branch_on_its_part() -> None:
    switch = DatasetSwitch([nn.Linear(3, 2), nn.Linear(3, 2)], DatasetSelection(["a", "b"]))
    x = torch.randn(5, 3)
    switch.selection.segments = ((1, 2), (0, 3))
    expected = torch.cat([switch.branches[1](x[:2]), switch.branches[0](x[2:])])
    assert torch.equal(switch(x), expected)
    with pytest.raises(FusedForwardError, match=r"batch of 4 where the fused batch holds 5"):
        switch(x[:4])
