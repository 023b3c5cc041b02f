"""The trainer against loops written by hand in plain torch, on N plain networks that share conv tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import segmentation_models_pytorch as smp
import torch
from small_runs import CLASSES, NAMES, Batch, SmallNet, assert_same_step, batches, gradient
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR

import dabnn
from dabnn.training import AlternationTrainer, Draw

STEPS = 3


def small_net(classes: int) -> nn.Module:
    return SmallNet(classes)


def unet(classes: int) -> nn.Module:
    return smp.Unet(
        "resnet18", encoder_weights=None, classes=classes, encoder_depth=3, decoder_channels=(16, 16, 8)
    )


def plain_networks(build: Callable[[int], nn.Module], classifier: str) -> list[nn.Module]:
    """One network for each dataset: the same conv Parameters, private (different) norms and classifiers."""
    torch.manual_seed(0)
    networks = [build(classes).double() for classes in CLASSES]
    for network in networks:
        for path, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
            elif isinstance(module, nn.Conv2d) and path != classifier:
                shared = networks[0].get_submodule(path)
                module.weight, module.bias = shared.weight, shared.bias
    return networks


def same_as_dataset_aware(
    networks: Sequence[nn.Module], build: Callable[[int], nn.Module], classifier: str
) -> nn.Module:
    """A converted model with the weights of the plain networks."""
    model = dabnn.convert_to_dataset_aware(
        build(CLASSES[0]).double(), dataset_names=NAMES, num_classes=CLASSES, classifier=classifier
    )
    for name, network in zip(NAMES, networks, strict=True):
        dabnn.extract_dataset(model, name, copy=False).load_state_dict(network.state_dict())
    return model


def unique_parameters(networks: Sequence[nn.Module]) -> list[nn.Parameter]:
    return list({id(p): p for network in networks for p in network.parameters()}.values())


def plain_loss(network: nn.Module, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(network(batch[0]), batch[1], ignore_index=255)


def double_batches(side: int) -> dict[str, list[Batch]]:
    return {
        name: [(images.double(), masks) for images, masks in items]
        for name, items in batches(STEPS, side=side).items()
    }


def assert_same_networks(model: nn.Module, networks: Sequence[nn.Module], tolerance: float = 1e-9) -> None:
    """Every plain network equals the dataset taken out of the model: weights, buffers, and gradients."""
    for name, network in zip(NAMES, networks, strict=True):
        actual = dabnn.extract_dataset(model, name, copy=False)
        torch.testing.assert_close(
            dict(actual.state_dict()), dict(network.state_dict()), rtol=tolerance, atol=tolerance
        )
        assert_same_step(actual, network, tolerance)


@pytest.mark.parametrize(
    ("build", "classifier", "side", "backward"),
    [
        (small_net, "classifier", 8, "per_dataset"),
        (small_net, "classifier", 8, "joint"),
        (small_net, "classifier", 8, "fused"),
        (unet, "segmentation_head.0", 32, "per_dataset"),
    ],
)
def test_equals_plain_networks_that_share_convs(
    build: Callable[[int], nn.Module], classifier: str, side: int, backward: str
) -> None:
    networks = plain_networks(build, classifier)
    model = same_as_dataset_aware(networks, build, classifier)
    data = double_batches(side)
    optimizer = SGD(unique_parameters(networks), lr=0.05, momentum=0.9, weight_decay=1e-3)
    trainer = AlternationTrainer(
        model,
        data,
        optimizer=SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
        backward=backward,  # type: ignore[arg-type]
    )
    for k in range(STEPS):
        optimizer.zero_grad()
        losses = [plain_loss(network, data[name][k]) for name, network in zip(NAMES, networks, strict=True)]
        sum(losses).backward()  # type: ignore[union-attr]
        optimizer.step()
        reported = trainer.train_step(trainer.loaders.draw())
        assert list(reported.values()) == pytest.approx([loss.item() for loss in losses], rel=1e-9)
        assert_same_networks(model, networks)


def test_default_recipe_is_the_papers() -> None:
    networks = plain_networks(small_net, "classifier")
    model = same_as_dataset_aware(networks, small_net, "classifier")
    data = double_batches(8)
    optimizer = SGD(unique_parameters(networks), lr=0.01, momentum=0.9, weight_decay=1e-4)
    schedule = LambdaLR(optimizer, lambda k: (1 - k / STEPS) ** 0.9)
    for k in range(STEPS):
        optimizer.zero_grad()
        for name, network in zip(NAMES, networks, strict=True):
            plain_loss(network, data[name][k]).backward()
        optimizer.step()
        schedule.step()
    AlternationTrainer(model, data).fit(max_steps=STEPS)
    assert_same_networks(model, networks)


def test_update_by_dataset_steps_after_each_batch() -> None:
    networks = plain_networks(small_net, "classifier")
    model = same_as_dataset_aware(networks, small_net, "classifier")
    data = double_batches(8)
    optimizer = AdamW(unique_parameters(networks), lr=1e-2, weight_decay=0.1)
    for k in range(STEPS):
        for name, network in zip(NAMES, networks, strict=True):
            optimizer.zero_grad()
            plain_loss(network, data[name][k]).backward()
            optimizer.step()
    trainer = AlternationTrainer(
        model, data, optimizer=AdamW(model.parameters(), lr=1e-2, weight_decay=0.1), update="dataset"
    )
    trainer.fit(max_steps=STEPS)
    for name, network in zip(NAMES, networks, strict=True):
        actual = dabnn.extract_dataset(model, name)
        torch.testing.assert_close(
            dict(actual.state_dict()), dict(network.state_dict()), rtol=1e-9, atol=1e-9
        )


def test_shuffled_updates_go_through_all_datasets_in_changing_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = same_as_dataset_aware(plain_networks(small_net, "classifier"), small_net, "classifier")
    trainer = AlternationTrainer(model, double_batches(8), update="shuffled")
    orders: list[list[str]] = []
    compute = trainer._stepper._compute_gradient
    monkeypatch.setattr(
        trainer._stepper,
        "_compute_gradient",
        lambda draws, agreement: orders.append([d.dataset for d in draws]) or compute(draws, agreement),
    )
    losses = [list(trainer.train_step(trainer.loaders.draw())) for _ in range(STEPS)]
    steps = [tuple(name for (name,) in orders[k : k + 3]) for k in range(0, len(orders), 3)]
    assert all(sorted(step) == sorted(NAMES) for step in steps)
    assert len(set(steps)) > 1
    assert all(names == list(NAMES) for names in losses)


def test_ratios_average_the_batches_of_a_dataset_and_weights_scale_it() -> None:
    networks = plain_networks(small_net, "classifier")
    model = same_as_dataset_aware(networks, small_net, "classifier")
    data = double_batches(8)
    weights, ratios = {"b": 0.5}, {"a": 2}
    trainer = AlternationTrainer(
        model, data, optimizer=SGD(model.parameters(), lr=0.0), weights=weights, ratios=ratios
    )
    a, b, c = networks
    first, second = (plain_loss(a, data["a"][k]) for k in range(2))
    total = (first + second) / 2 + 0.5 * plain_loss(b, data["b"][0]) + plain_loss(c, data["c"][0])
    total.backward()
    items = trainer.loaders.draw()
    assert [item.dataset for item in items] == ["a", "a", "b", "c"]
    losses = trainer.train_step(items)
    assert losses["a"] == pytest.approx((first.item() + second.item()) / 2)
    assert_same_networks(model, networks)


def test_d09_a_dataset_that_is_not_trained_is_left_alone_by_weight_decay() -> None:
    networks = plain_networks(small_net, "classifier")
    model = same_as_dataset_aware(networks, small_net, "classifier")
    before = dabnn.extract_dataset(model, "b").state_dict()
    private = {id(p) for p in dabnn.branch_parameters(model, "b")}
    data = double_batches(8)
    for backward in ("per_dataset", "joint", "fused"):
        trainer = AlternationTrainer(
            model,
            {"a": data["a"], "c": data["c"]},
            optimizer=AdamW(model.parameters(), lr=0.1, weight_decay=0.5),
            backward=backward,  # type: ignore[arg-type]
        )
        trainer.fit(max_steps=2)
        assert all(p.grad is None for p in dabnn.branch_parameters(model, "b"))
    after = dabnn.extract_dataset(model, "b")
    for name, parameter in dabnn.extract_dataset(model, "b", copy=False).named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) in private), name
    for name, buffer in after.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_draws_can_be_made_by_hand() -> None:
    networks = plain_networks(small_net, "classifier")
    model = same_as_dataset_aware(networks, small_net, "classifier")
    data = double_batches(8)
    trainer = AlternationTrainer(model, data, optimizer=SGD(model.parameters(), lr=0.0))
    trainer.train_step([Draw("c", data["c"][1], weight=3.0)])
    (3 * plain_loss(networks[2], data["c"][1])).backward()
    assert_same_step(dabnn.extract_dataset(model, "c", copy=False), networks[2], 1e-9)
    assert (
        gradient(model)
        .keys()
        .isdisjoint(name for name, p in model.named_parameters() if ".0." in name and "bns" in name)
    )
