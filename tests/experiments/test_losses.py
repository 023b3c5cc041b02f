"""Losses of an experiment: the paper's alone, or with one more."""

from __future__ import annotations

import pytest
import torch

from dabnn.experiments.config import TrainingConfig
from dabnn.experiments.losses import EXTRA, build_loss
from dabnn.training import cross_entropy

MASKS = torch.randint(0, 4, (2, 16, 16), generator=torch.Generator().manual_seed(0))
MASKS[:, :4] = 255


def perfect() -> torch.Tensor:
    return 40.0 * torch.nn.functional.one_hot(MASKS.clamp(max=3), 4).permute(0, 3, 1, 2).float() - 20.0


@pytest.mark.parametrize("name", EXTRA)
def test_the_other_loss_is_added_and_knows_void(name):
    loss = build_loss(TrainingConfig(loss=name))
    logits = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    value = loss(logits, (logits, MASKS))
    assert value > cross_entropy(logits, (logits, MASKS))
    value.backward()
    assert not logits.grad[:, :, :4].any()  # void pixels teach nothing
    assert logits.grad[:, :, 4:].any()
    assert loss(perfect(), (None, MASKS)) < 0.01
    void = torch.full_like(MASKS, 255)
    nothing = loss(logits, (None, void))
    nothing.backward()
    assert nothing == 0


def test_an_auxiliary_head_adds_its_own_loss():
    loss = build_loss(TrainingConfig(loss="dice"))
    logits, other = (torch.randn(2, 4, 16, 16) for _ in range(2))
    main, auxiliary = loss(logits, (None, MASKS)), loss(other, (None, MASKS))
    together = loss({"out": logits, "aux": other}, (None, MASKS))
    torch.testing.assert_close(together, main + 0.4 * auxiliary)


def test_the_papers_loss_is_the_default():
    logits = torch.randn(2, 4, 16, 16)
    batch = (None, MASKS)
    assert build_loss(TrainingConfig())(logits, batch) == cross_entropy(logits, batch)
