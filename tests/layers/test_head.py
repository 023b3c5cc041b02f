from __future__ import annotations

import torch
from torch import nn

from dabnn import DatasetAwareHead, DatasetSelection


def test_each_dataset_has_its_own_classes() -> None:
    head = DatasetAwareHead([nn.Conv2d(6, 19, 1), nn.Conv2d(6, 11, 1)], DatasetSelection(["a", "b"]))
    for i, classes in enumerate((19, 11)):
        head.selection.active = i
        assert head(torch.randn(2, 6, 3, 3)).shape == (2, classes, 3, 3)
    assert head.in_channels == 6
    assert "heads.1.weight" in head.state_dict()


def test_fused_logits_are_padded_with_nan() -> None:
    head = DatasetAwareHead([nn.Linear(6, 3), nn.Linear(6, 5)], DatasetSelection(["a", "b"]))
    x = torch.randn(4, 6)
    head.selection.segments = ((0, 1), (1, 3))
    y = head(x)
    assert y.shape == (4, 5)
    assert torch.equal(y[:1, :3], head.heads[0](x[:1]))
    assert y[:1, 3:].isnan().all()
    assert torch.equal(y[1:], head.heads[1](x[1:]))


def test_the_padding_carries_no_gradient() -> None:
    head = DatasetAwareHead([nn.Conv2d(6, 3, 1), nn.Conv2d(6, 5, 1)], DatasetSelection(["a", "b"]))
    head.selection.segments = ((0, 2), (1, 2))
    head(torch.randn(4, 6, 2, 2))[:2, :3].sum().backward()
    assert head.heads[0].weight.grad.isfinite().all()
    assert (head.heads[1].weight.grad == 0).all()
