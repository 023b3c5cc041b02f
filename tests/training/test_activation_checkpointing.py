"""Recomputed forwards run in the backward pass: the gradient must be right, or there must be an error."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from small_runs import (
    CLASSES,
    NAMES,
    SmallNet,
    assert_same_step,
    distance,
    draws,
    gradient,
    plain_sgd,
    segmentation_batch,
    step_once,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import dabnn
from dabnn.errors import ConfigError, NoActiveDatasetError
from dabnn.training import AlternationTrainer, Draw, cross_entropy


class CheckpointedNet(SmallNet):
    """Its body is recomputed in the backward pass, in one of torch's two ways."""

    reentrant = False
    on = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = checkpoint(self.body, x, use_reentrant=self.reentrant) if self.on else self.body(x)
        return self.classifier(x)


class ReentrantNet(CheckpointedNet):
    reentrant = True


def timm_classifier() -> nn.Module:
    return timm.create_model("resnet10t", num_classes=4)


def smp_with_timm_encoder() -> nn.Module:
    return smp.Unet("tu-resnet10t", encoder_weights=None, encoder_depth=3, decoder_channels=(16, 16, 8))


def converted(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    known = None if build not in (CheckpointedNet, ReentrantNet) else "classifier"
    return dabnn.convert_to_dataset_aware(
        build(), dataset_names=NAMES, num_classes=CLASSES, classifier=known
    ).double()


def items_for(model: nn.Module) -> list[Draw]:
    if isinstance(model, timm.models.ResNet):
        labels = [torch.randint(classes, (2,)) for classes in CLASSES]
        return [
            Draw(name, (torch.randn(2, 3, 32, 32, dtype=torch.float64), label))
            for name, label in zip(NAMES, labels, strict=True)
        ]
    return draws(torch.float64, side=32)


def switch(model: nn.Module, on: bool) -> None:
    if isinstance(model, CheckpointedNet):
        model.on = on
    else:
        encoder = model.encoder.model if hasattr(model, "encoder") else model
        encoder.set_grad_checkpointing(on)


MODELS = pytest.mark.parametrize(
    "build", [timm_classifier, smp_with_timm_encoder, CheckpointedNet, ReentrantNet]
)


@MODELS
def test_d03_gradient_is_exact(build: Callable[[], nn.Module]) -> None:
    model = converted(build)
    items = items_for(model)
    switch(model, on=False)
    expected, _ = step_once(model, items)
    switch(model, on=True)
    for backward in ("per_dataset", "fused"):
        actual, _ = step_once(model, items, backward=backward)
        assert distance(gradient(actual), gradient(expected)) <= 1e-9


@MODELS
@pytest.mark.parametrize("selected_before", [None, "a", "c"])
def test_d03_joint_backward_raises_instead_of_a_wrong_gradient(
    build: Callable[[], nn.Module], selected_before: str | None
) -> None:
    model = converted(build)
    switch(model, on=True)
    dabnn.set_dataset(model, selected_before)
    trainer = AlternationTrainer(
        model, dict.fromkeys(NAMES, ()), optimizer=plain_sgd(model), backward="joint"
    )
    before = deepcopy(dict(model.named_parameters()))
    with pytest.raises(NoActiveDatasetError, match="activation checkpointing recomputed a forward"):
        trainer.train_step(items_for(model))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert dabnn.active_dataset(model) == selected_before


@pytest.mark.parametrize("build", [timm_classifier, smp_with_timm_encoder])
def test_the_trainer_switches_it_on(build: Callable[[], nn.Module]) -> None:
    model = converted(build)
    items = items_for(model)
    expected, _ = step_once(model, items)
    actual, _ = step_once(model, items, activation_checkpointing=True)
    inner = actual.encoder.model if hasattr(actual, "encoder") else actual
    assert inner.grad_checkpointing
    assert distance(gradient(actual), gradient(expected)) <= 1e-9
    with pytest.raises(ConfigError, match="per_dataset"):
        step_once(model, items, activation_checkpointing=True, backward="joint")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (SmallNet, "SmallNet has no set_grad_checkpointing; wrap its layers"),
        (lambda: timm.create_model("dla46_c"), "DLA: gradient checkpointing not supported"),
    ],
)
def test_a_model_without_it_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    model = dabnn.convert_to_dataset_aware(build(), 2)
    with pytest.raises(ConfigError, match=message):
        AlternationTrainer(model, {"dataset_0": []}, activation_checkpointing=True)


@pytest.mark.parametrize("build", [CheckpointedNet, ReentrantNet])
def test_a_selection_that_persists_over_forward_and_backward_is_right(
    build: Callable[[], nn.Module],
) -> None:
    model = converted(build)
    batch = segmentation_batch(5)
    batch = (batch[0].double(), batch[1])
    for recompute in (True, False):
        switch(model, on=recompute)
        dabnn.set_dataset(model, "b")
        model.zero_grad()
        cross_entropy(model(batch[0]), batch).backward()
        if recompute:
            actual = {name: grad.clone() for name, grad in gradient(model).items()}
    assert distance(actual, gradient(model)) <= 1e-9


def test_d04_norms_inside_update_their_statistics_twice() -> None:
    """torch's way: the recomputed forward counts; the momentum acts as 1 - (1 - m)^2, on every branch."""
    model = converted(CheckpointedNet)
    switch(model, on=False)
    once, _ = step_once(model, draws(torch.float64))
    switch(model, on=True)
    twice, _ = step_once(model, draws(torch.float64))
    for name in NAMES:
        start, one, two = (dabnn.extract_dataset(m, name) for m in (model, once, twice))
        momentum = start.body[1].momentum
        new = (one.body[1].running_mean - start.body[1].running_mean) / momentum
        torch.testing.assert_close(
            two.body[1].running_mean, start.body[1].running_mean + (1 - (1 - momentum) ** 2) * new
        )
        assert two.body[1].num_batches_tracked == 2
        assert torch.equal(two.stem[1].running_mean, one.stem[1].running_mean)  # outside: once


def test_fused_equals_per_dataset_with_checkpointing() -> None:
    model = converted(CheckpointedNet)
    expected, _ = step_once(model, draws(torch.float64))
    actual, _ = step_once(model, draws(torch.float64), backward="fused")
    assert_same_step(actual, expected, 1e-9)  # buffers too: both update twice
