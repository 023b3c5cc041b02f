"""What is done inside modules of torch fits the torch that is installed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dabnn.layers.surgery import HOOKS, device_of, drop_hooks, eval_mode, replace_modules, statistics_of


def test_the_hooks_that_move_with_a_module_are_all_that_torch_has() -> None:
    """Those of state dicts belong to the module that is saved, not to its calls, and stay with it."""
    found = {name for name in vars(nn.Module()) if "hook" in name and "state_dict" not in name}

    assert found == {*HOOKS, "_is_full_backward_hook"}


def test_a_shared_module_is_replaced_at_each_of_its_places() -> None:
    shared = nn.ReLU()
    root = nn.Sequential(shared, nn.Sequential(shared), nn.Linear(1, 1))

    assert replace_modules(root, {shared: (new := nn.GELU())}) is root
    assert root[0] is root[1][0] is new
    assert replace_modules(root, {root: (other := nn.Identity())}) is other


def test_an_original_may_live_on_inside_its_replacement() -> None:
    layer = nn.Linear(2, 2)
    root = nn.Sequential(layer)

    replace_modules(root, {layer: nn.ModuleDict({"inner": nn.ModuleList([layer])})})

    assert root[0]["inner"][0] is layer


def test_dropped_hooks_do_not_fire_and_their_handles_can_be_removed() -> None:
    fired = []
    layer = nn.Linear(2, 2)
    handle = layer.register_forward_hook(lambda *_: fired.append(1))

    drop_hooks(layer)
    layer(torch.zeros(1, 2))
    handle.remove()

    assert fired == []


def test_eval_mode_gives_each_module_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())

    with eval_mode(model):
        inside = [module.training for module in model.modules()]

    assert inside == [False, False, False]
    assert [module.training for module in model] == [True, False]


def test_statistics_are_the_buffers_themselves_or_an_error() -> None:
    norm = nn.BatchNorm2d(3)
    mean, variance = statistics_of(norm)

    assert mean is norm.running_mean
    assert variance is norm.running_var
    with pytest.raises(TypeError, match="BatchNorm2d keeps no running statistics"):
        statistics_of(nn.BatchNorm2d(3, track_running_stats=False))


def test_the_device_of_a_model_without_tensors_is_the_cpu() -> None:
    assert device_of(nn.ReLU()) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
