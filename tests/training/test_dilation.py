"""Dilated depthwise convolutions by phases: the same values and gradients, and nothing else changed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode

from dabnn.training import FastDilation


class Dilations(TorchFunctionMode):
    """Notes the dilation of every convolution that reaches torch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.conv2d:
            self.seen.append(args[5][0] if len(args) > 5 else 1)
        return func(*args, **(kwargs or {}))


def run(layer: nn.Module, images: torch.Tensor, context: TorchFunctionMode) -> list[torch.Tensor]:
    images = images.clone().requires_grad_()
    with context:
        output = layer(images)
    output.square().sum().backward()
    gradients = [images.grad, *(p.grad.clone() for p in layer.parameters())]
    layer.zero_grad()
    return [output.detach(), *gradients]


@given(
    channels=st.integers(1, 5),
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    kernel=st.sampled_from([1, 3, 5]),
    dilation=st.integers(2, 4),
    bias=st.booleans(),
    last=st.booleans(),
)
def test_values_and_gradients_are_those_of_torch(channels, size, kernel, dilation, bias, last):
    torch.manual_seed(0)
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(
        channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=bias
    ).double()
    images = torch.randn(2, channels, *size, dtype=torch.float64)
    expected = run(layer, images, Dilations())
    layer, images = layer.float(), images.float()
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    for got, value in zip(run(layer, images, FastDilation()), expected, strict=True):
        torch.testing.assert_close(got, value.float(), rtol=1e-4, atol=1e-4)


CASES = {
    "depthwise": (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), True),
    "without dilation": (nn.Conv2d(4, 4, 3, padding=1, groups=4), True),
    "dense": (nn.Conv2d(4, 4, 3, padding=2, dilation=2), False),
    "several outputs a channel": (nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4), False),
    "strided": (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, stride=2), False),
    "other padding": (nn.Conv2d(4, 4, 3, dilation=2, groups=4), False),
    "padding by name": (nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=4), False),
    "of two dilations": (nn.Conv2d(4, 4, 3, padding=(2, 3), dilation=(2, 3), groups=4), False),
    "even kernel": (nn.Conv2d(4, 4, 2, padding=2, dilation=2, groups=4), False),
}


@pytest.mark.parametrize("name", CASES)
def test_only_dilated_depthwise_convolutions_are_taken_apart(name):
    layer, undilated = CASES[name]
    images = torch.randn(2, 4, 9, 7)
    expected = layer(images)
    with Dilations() as calls, FastDilation():
        torch.testing.assert_close(layer(images), expected)
    assert (calls.seen == [1]) is undilated


def test_double_precision_is_left_as_it_is():
    layer = CASES["depthwise"][0]
    images = torch.randn(2, 4, 9, 7)
    with Dilations() as calls, FastDilation():
        layer.double()(images.double())
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            layer(images)
    assert calls.seen == [2, 2]
