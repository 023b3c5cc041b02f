from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from toy_models import assert_equal, on, randomise

import dabnn
from dabnn import DatasetAwareBlock, DatasetSelection


def network() -> nn.Module:
    selection = DatasetSelection(["a", "b"])
    return nn.Sequential(
        DatasetAwareBlock(3, 8, selection=selection, stride=2, act_layer=nn.SiLU),
        DatasetAwareBlock(8, 8, 1, selection=selection, groups=4),
        DatasetAwareBlock(8, 4, selection=selection, dilation=2),
    )


def test_a_network_of_blocks_is_selected_as_a_whole() -> None:
    net = randomise(network()).eval()
    assert dabnn.dataset_names(net) == ("a", "b")
    x = torch.randn(2, 3, 8, 8)
    a, b = on(net, "a", x), on(net, "b", x)
    assert a.shape == b.shape == (2, 4, 4, 4)
    assert not torch.equal(a, b)


def test_a_block_is_convolution_norm_activation() -> None:
    block = randomise(network()[0]).eval()
    x = torch.randn(2, 3, 8, 8)
    assert_equal(on(block, 1, x), nn.functional.silu(block.bn.bns[1](block.conv(x))))
    assert block.conv.bias is None


@pytest.mark.parametrize(
    ("conv", "norm", "shape"),
    [(nn.Conv1d, nn.BatchNorm1d, (2, 3, 7)), (nn.Conv3d, nn.BatchNorm3d, (2, 3, 4, 5, 6))],
)
def test_other_dimensions(conv, norm, shape) -> None:
    block = DatasetAwareBlock(3, 4, selection=DatasetSelection(["a", "b"]), conv_layer=conv, norm_layer=norm)
    assert on(block, 0, torch.randn(shape)).shape == (2, 4, *shape[2:])


def test_convolutions_are_shared_and_norms_are_not() -> None:
    net = network()
    assert len(list(dabnn.shared_parameters(net))) == 3
    assert len(list(dabnn.branch_parameters(net, "b"))) == 6


@pytest.mark.parametrize("copied", [True, False])
def test_an_extracted_network_is_plain(copied) -> None:
    net = randomise(network()).eval()
    plain = dabnn.extract_dataset(net, "b", copy=copied)
    x = torch.randn(2, 3, 8, 8)
    assert_equal(plain(x), on(net, "b", x))
    assert list(plain.state_dict()) == [k.replace("bns.0.", "") for k in net.state_dict() if "bns.1" not in k]
    assert b"dabnn" not in pickle.dumps(plain)
    assert isinstance(net[0], DatasetAwareBlock)
    assert not any(module.training for module in plain.modules())


def test_a_single_block_is_extracted() -> None:
    block = randomise(network()[0]).eval()
    fired: list[int] = []
    block.register_forward_hook(lambda *_: fired.append(1))
    plain = dabnn.extract_dataset(block, 0)
    plain(torch.randn(2, 3, 8, 8))
    assert type(plain) is nn.Sequential
    assert fired == [1]


def test_a_plain_checkpoint_loads_into_a_network_of_blocks() -> None:
    net = randomise(network()).eval()
    plain = dabnn.extract_dataset(net, "a")
    twin = network().eval()
    dabnn.load_state_dict(twin, plain.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert_equal(on(twin, "b", x), plain(x))
