"""Norms other than batch norm on request, and norms that keep a part of themselves in common."""

from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_model, save_model
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from toy_models import ConvNet, assert_drop_in, assert_equal, aware, image_batch, on, randomise

import dabnn
from dabnn.errors import NoBatchNormFoundError

NORMS = {
    "LayerNorm": lambda c: nn.LayerNorm([c, 8, 8]),
    "GroupNorm": lambda c: nn.GroupNorm(2, c),
    "RMSNorm": lambda c: nn.RMSNorm([c, 8, 8]),
    "InstanceNorm": lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
    "timm LayerNorm2d": LayerNorm2d,
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_any_norm_gets_branches_on_request(norm) -> None:
    model = ConvNet(norm)
    with pytest.raises(NoBatchNormFoundError):
        dabnn.convert_to_dataset_aware(copy.deepcopy(model), 2)
    converted = assert_drop_in(model, image_batch(), norm_types=[type(model.bn1)])
    assert isinstance(converted.bn1, dabnn.DatasetAwareBatchNorm)


@pytest.mark.parametrize(
    ("build", "norm"),
    [
        (lambda: timm.create_model("test_convnext"), LayerNorm2d),
        (lambda: timm.create_model("test_vit", img_size=64), nn.LayerNorm),
        (lambda: smp.Segformer("mit_b0", encoder_weights=None), nn.LayerNorm),
    ],
    ids=["convnext", "vit", "segformer"],
)
def test_transformers_convert_and_are_extracted(build, norm) -> None:
    torch.manual_seed(0)
    plain = build().eval()
    model = aware(copy.deepcopy(plain), norm_types=[norm, _BatchNorm])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for parameter in dabnn.branch_parameters(model, 1):
            parameter.add_(0.1)
        extracted = dabnn.extract_dataset(model, 1)
        assert_equal(extracted(x), on(model, 1, x))
        assert not torch.equal(on(model, 0, x), on(model, 1, x))
    assert list(extracted.state_dict()) == list(plain.state_dict())
    assert type(extracted) is type(plain)


def test_norms_that_are_not_chosen_are_reported() -> None:
    model = ConvNet()
    model.bn2 = nn.GroupNorm(2, 6)
    report = dabnn.plan_conversion(model, 2, norm_types=[nn.GroupNorm])
    assert [site.path for site in report.norms] == ["bn2"]
    assert [(site.path, site.reason) for site in report.skipped] == [("bn1", "not among norm_types")]


def test_shared_affine_parameters_get_the_gradient_of_every_dataset() -> None:
    model = dabnn.convert_to_dataset_aware(ConvNet(), 3, share_affine=True)
    first, *others = model.bn1.bns
    assert all(bn.weight is first.weight and bn.bias is first.bias for bn in others)
    assert len({id(bn.running_mean) for bn in model.bn1.bns}) == 3
    assert first.weight in set(dabnn.shared_parameters(model))
    assert list(dabnn.branch_parameters(model, 1)) == []
    for i in (0, 2):
        on(model, i, image_batch(seed=i)).square().mean().backward()
    both = first.weight.grad.clone()
    model.zero_grad()
    on(model, 2, image_batch(seed=2)).square().mean().backward()
    assert not torch.equal(first.weight.grad, both)


def test_shared_statistics_see_every_dataset_and_affine_parameters_one() -> None:
    model = dabnn.convert_to_dataset_aware(ConvNet(), 2, share_statistics=True)
    first, second = model.bn1.bns
    fresh = {key: value.clone() for key, value in first.named_buffers()}
    assert first.running_mean is second.running_mean
    assert first.weight is not second.weight
    assert set(dabnn.branch_parameters(model, 1)) == {
        second.weight,
        second.bias,
        *model.bn2.bns[1].parameters(),
    }
    on(model.train(), 0, image_batch())
    on(model, 1, image_batch())
    expected = ConvNet().bn1
    expected.load_state_dict(dabnn.extract_dataset(model, 0).bn1.state_dict() | fresh)
    for _ in range(2):
        expected(model.conv1(image_batch()))
    assert_equal(second.running_mean, expected.running_mean)


@pytest.mark.parametrize("share", ["share_affine", "share_statistics"])
def test_models_that_share_a_part_save_load_copy_and_extract(share, tmp_path) -> None:
    def build() -> nn.Module:
        return dabnn.convert_to_dataset_aware(
            ConvNet(), 2, num_classes=[5, 3], classifier="classifier", **{share: True}
        )

    model = randomise(build()).eval()
    save_model(model, str(tmp_path / "model.safetensors"))
    loaded = build().eval()
    load_model(loaded, tmp_path / "model.safetensors")
    for other in (loaded, copy.deepcopy(model)):
        assert (
            other.bn1.shared_tensors()[0]
            is other.bn1.bns[1].state_dict(keep_vars=True)[
                "weight" if share == "share_affine" else "running_mean"
            ]
        )
        for i in range(2):
            assert_equal(on(other, i, image_batch()), on(model, i, image_batch()))
    plain = dabnn.extract_dataset(model, 1)
    assert_equal(plain(image_batch()), on(model, 1, image_batch()))
    assert list(plain.state_dict()) == list(ConvNet().state_dict())


@pytest.mark.parametrize("share", ["share_affine", "share_statistics"])
def test_a_dataset_that_is_added_shares_the_same_part(share, tmp_path) -> None:
    model = randomise(dabnn.convert_to_dataset_aware(ConvNet(), 2, **{share: True})).eval()
    before = [on(model, i, image_batch()) for i in range(2)]
    dabnn.add_dataset(model, "new", init_from=0)
    assert_equal(on(model, "new", image_batch()), before[0])
    assert all(
        tensor is own
        for tensor, own in zip(
            model.bn1.shared_tensors(),
            [
                t
                for t in (*model.bn1.bns[2].parameters(), *model.bn1.bns[2].buffers())
                if id(t) in {id(s) for s in model.bn1.shared_tensors()}
            ],
            strict=True,
        )
    )
    dabnn.add_dataset(model, "average")
    assert_equal([on(model, i, image_batch()) for i in range(2)], before)
    dabnn.save_dataset(model, 1, tmp_path)
    dabnn.load_dataset(model, tmp_path)
    assert_equal([on(model, i, image_batch()) for i in range(2)], before)


def test_a_norm_keeps_something_of_its_own() -> None:
    with pytest.raises(ValueError, match="share_affine and share_statistics together"):
        dabnn.convert_to_dataset_aware(ConvNet(), 2, share_affine=True, share_statistics=True)
