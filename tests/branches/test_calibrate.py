from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from toy_models import ConvNet, assert_equal, aware, image_batch, on, process_group

import dabnn
from dabnn.errors import DataError, NoBatchNormFoundError


def batches(count: int = 3) -> list[tuple[torch.Tensor, None]]:
    return [
        (image_batch(size, seed).double(), None) for seed, size in zip(range(count), (4, 2, 5), strict=False)
    ]


def brute_force(plain: nn.Module, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of all that reaches a norm, every norm working with the statistics of its batch."""
    plain = copy.deepcopy(plain).train()
    plain.dropout.eval()
    seen: list[torch.Tensor] = []
    plain.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for images, _ in batches():
        plain(images)
    everything = torch.cat([x.transpose(0, 1).flatten(1) for x in seen], dim=1)
    return everything.mean(1), everything.var(1)


@pytest.mark.parametrize("converted", [True, False])
def test_statistics_are_the_true_averages(converted) -> None:
    model = aware().double()
    plain = dabnn.extract_dataset(model, 1)
    target = model if converted else copy.deepcopy(plain)
    dabnn.recalibrate_batch_norm(target, batches(), dataset="dataset_1" if converted else None)
    norms = dabnn.extract_dataset(target, 1) if converted else target
    for name in ("bn1", "bn2"):
        mean, variance = brute_force(plain, name)
        norm = norms.get_submodule(name)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-10, atol=1e-10)
        assert_equal(norm.num_batches_tracked, plain.get_submodule(name).num_batches_tracked)


def test_d07_the_statistics_of_other_datasets_are_not_touched() -> None:
    model = aware(skip="bn2").double().train()
    model.conv1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    dabnn.recalibrate_batch_norm(model, batches(), dataset=1)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"bn1.bns.1.running_mean", "bn1.bns.1.running_var"}
    assert [m.training for m in model.modules()] == modes
    assert dabnn.active_dataset(model) is None


def test_an_error_on_the_way_leaves_the_old_statistics() -> None:
    def failing():
        yield from batches(2)
        raise OSError("unplugged")

    model = aware().double()
    before = copy.deepcopy(model.state_dict())
    for loader, error, message in (
        (failing(), OSError, "unplugged"),
        ([], DataError, "gave no batch"),
        ([(image_batch().double(),)], DataError, "a batch is a pair"),
    ):
        with pytest.raises(error, match=message):
            dabnn.recalibrate_batch_norm(model, loader, dataset=0)
        assert_equal(dict(model.state_dict()), dict(before))
        assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_number_of_batches_can_be_limited() -> None:
    first, second = aware().double(), aware().double()
    second.load_state_dict(first.state_dict())
    dabnn.recalibrate_batch_norm(first, batches(), dataset=0, max_batches=2)
    dabnn.recalibrate_batch_norm(second, batches(2), dataset=0)
    assert_equal(dict(first.state_dict()), dict(second.state_dict()))


def test_it_repairs_the_statistics_of_a_real_network() -> None:
    torch.manual_seed(0)
    model = dabnn.convert_to_dataset_aware(smp.Unet("resnet18", encoder_weights=None), 2)
    images = torch.randn(8, 3, 64, 64) * 3 + 1
    dabnn.recalibrate_batch_norm(model, [{"image": images}], dataset=1)
    expected = on(copy.deepcopy(model).train(), 1, images)
    torch.testing.assert_close(
        on(model.eval(), 1, images), expected, rtol=0.1, atol=0.1 * expected.abs().max().item()
    )


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="say with dataset= whose norms"):
        dabnn.recalibrate_batch_norm(aware(), batches())
    with pytest.raises(NoBatchNormFoundError):
        dabnn.recalibrate_batch_norm(nn.Conv2d(3, 3, 1), batches())
    with pytest.raises(dabnn.errors.UnknownDatasetError):
        dabnn.recalibrate_batch_norm(aware(), batches(), dataset="x")


def test_one_process_alone_keeps_its_statistics() -> None:
    model = aware()
    before = copy.deepcopy(model.state_dict())
    dabnn.sync_batch_norm_buffers(model)
    assert_equal(dict(model.state_dict()), dict(before))
    with process_group():
        dabnn.sync_batch_norm_buffers(model)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key])


def test_models_without_statistics_have_nothing_to_synchronise() -> None:
    for model in (nn.Conv2d(3, 3, 1), ConvNet(lambda c: nn.BatchNorm2d(c, track_running_stats=False))):
        before = copy.deepcopy(model.state_dict())
        with process_group():
            dabnn.sync_batch_norm_buffers(model)
        assert_equal(dict(model.state_dict()), dict(before))
