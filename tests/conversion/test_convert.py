from __future__ import annotations

import copy
import logging

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import nets
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from toy_models import (
    ConvNet,
    Snapshot,
    Stubborn,
    TwiceNamed,
    TwoParents,
    assert_drop_in,
    assert_equal,
    aware,
    image_batch,
    on,
    randomise,
    seeded,
    without_beta,
)

import dabnn
from dabnn.errors import ClassifierNotFoundError, ConversionError


def mixed_dtypes() -> nn.Module:
    class Mixed(ConvNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.bn1(self.conv1(x)).relu()
            return self.bn2(self.conv2(x).double()).float()

    model = Mixed()
    model.bn2.double()
    return model


MODELS = {
    "conv net": ConvNet,
    "root batch norm": lambda: nn.BatchNorm2d(3),
    "one norm, two names": TwiceNamed,
    "one norm, two parents": TwoParents,
    "norm with activation and dropout": lambda: ConvNet(
        lambda c: BatchNormAct2d(c, act_layer=nn.SiLU, drop_layer=nn.Dropout2d)
    ),
    "root norm with activation": lambda: BatchNormAct2d(3),
    "momentum None": lambda: ConvNet(lambda c: nn.BatchNorm2d(c, momentum=None)),
    "not affine": lambda: ConvNet(lambda c: nn.BatchNorm2d(c, affine=False)),
    "no running statistics": lambda: ConvNet(lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
    "gamma without beta": lambda: ConvNet(without_beta),
    "synchronised": lambda: ConvNet(nn.SyncBatchNorm),
    "guarded parent": Stubborn,
    "mixed dtypes": mixed_dtypes,
    "half in eval mode": lambda: _half_eval(),
    "partly frozen": lambda: _partly_frozen(),
    "timm": lambda: timm.create_model("test_efficientnet", num_classes=5),
    "smp": lambda: smp.Unet("resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(8, 8, 8)),
}


def _half_eval() -> nn.Module:
    model = ConvNet()
    model.bn1.eval()
    return model


def _partly_frozen() -> nn.Module:
    model = ConvNet()
    model.bn1.requires_grad_(False)
    model.bn2.bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_every_branch_is_a_drop_in_replacement(build) -> None:
    assert_drop_in(randomise(build()), image_batch())


def test_bfloat16_is_kept() -> None:
    converted = assert_drop_in(randomise(ConvNet().bfloat16()), image_batch().bfloat16())
    assert {v.dtype for v in converted.state_dict().values()} == {torch.bfloat16, torch.int64}


def test_batch_norm_1d_and_3d() -> None:
    assert_drop_in(randomise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))), torch.randn(5, 3))
    assert_drop_in(randomise(nn.Sequential(nn.BatchNorm1d(3))), torch.randn(5, 3, 7))
    assert_drop_in(randomise(nn.Sequential(nn.BatchNorm3d(3))), torch.randn(2, 3, 2, 4, 4))


def test_batch_of_one_under_a_pooled_norm_fails_as_it_does_unconverted() -> None:
    model = aware(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        on(model, 0, image_batch(1))


def test_a_model_on_the_meta_device_stays_there() -> None:
    with torch.device("meta"):
        plain = ConvNet()
    model = dabnn.convert_to_dataset_aware(plain, 2, num_classes=[5, 7], classifier="classifier")
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert on(model, 1, image_batch().to("meta")).shape == (4, 7, 8, 8)


def test_branch_0_keeps_the_parameters_and_the_others_own_theirs() -> None:
    model = ConvNet()
    bn = model.bn1
    weight = model.bn1.weight
    dabnn.convert_to_dataset_aware(model, 3)
    assert model.bn1.bns[0] is bn
    assert model.bn1.bns[0].weight is weight
    storages = [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert len(set(storages)) == len(storages)


def test_norms_that_share_parameters_share_them_in_every_branch() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    model[1].weight = model[0].weight
    model = assert_drop_in(randomise(model), image_batch())
    assert all(model[0].bns[i].weight is model[1].bns[i].weight for i in range(3))
    assert len(list(model.parameters())) == 9


def test_no_gradient_of_the_original_is_copied() -> None:
    model = ConvNet()
    model(image_batch()).sum().backward()
    dabnn.convert_to_dataset_aware(model, 2)
    assert model.bn1.bns[0].weight.grad is not None
    assert model.bn1.bns[1].weight.grad is None


def test_one_classifier_per_dataset() -> None:
    model = dabnn.convert_to_dataset_aware(
        ConvNet(classes=5), 3, num_classes=[5, 2, 5], classifier="classifier"
    )
    assert isinstance(model.classifier, dabnn.DatasetAwareHead)
    assert [on(model, i, image_batch()).shape[1] for i in range(3)] == [5, 2, 5]


def test_classifiers_that_fit_start_as_the_original_and_the_others_anew() -> None:
    plain = ConvNet(classes=5)
    old = plain.classifier
    model = dabnn.convert_to_dataset_aware(plain, 3, num_classes=[2, 5, 5], classifier="classifier")
    heads = model.classifier.heads
    assert heads[1] is old
    assert heads[2] is not old
    assert_equal(heads[2].state_dict(), old.state_dict())
    assert heads[0].weight.shape == (2, 6, 1, 1)
    assert heads[0].out_channels == 2


def test_a_resized_classifier_keeps_dtype_mode_and_requires_grad() -> None:
    plain = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5, bias=False)).double().eval()
    plain[1].requires_grad_(False)
    head = dabnn.convert_to_dataset_aware(plain, 2, num_classes=[5, 3], classifier="1")[1].heads[1]
    assert head.weight.dtype == torch.float64
    assert not head.weight.requires_grad
    assert not head.training
    assert head.bias is None
    assert head.out_features == 3


def test_several_classifiers_by_path() -> None:
    class Two(ConvNet):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Conv2d(6, 5, 1)

        def forward(self, x):
            features = self.bn2(self.conv2(self.bn1(self.conv1(x))))
            return self.classifier(features), self.auxiliary(features)

    model = dabnn.convert_to_dataset_aware(
        Two(), 2, num_classes=[3, 4], classifier=["classifier", "auxiliary"]
    )
    assert [y.shape[1] for y in on(model, 1, image_batch())] == [4, 4]


def head_with_norm(old: nn.Module, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Conv2d(6, num_classes, 1))


def test_head_factory_builds_classifiers_of_any_kind() -> None:
    plain = ConvNet()
    plain.classifier = head_with_norm(plain, 5)
    model = dabnn.convert_to_dataset_aware(
        plain.eval(), 2, num_classes=[5, 3], classifier="classifier", head_factory=head_with_norm
    )
    assert on(model, 1, image_batch()).shape[1] == 3
    assert "classifier.heads.1.1.running_mean" in model.state_dict()  # its norm belongs to the head
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(lambda old, n: None, id="not a module"),
        pytest.param(lambda old, n: old, id="the same module twice"),
        pytest.param(lambda old, n: 1 / 0, id="raises"),
    ],
)
def test_a_bad_head_factory_leaves_the_model_untouched(factory) -> None:
    model = ConvNet()
    handle = model.classifier.register_forward_hook(lambda *_: None)
    before = Snapshot(model)
    with pytest.raises(ClassifierNotFoundError, match=r"classifier.*head_factory"):
        dabnn.convert_to_dataset_aware(
            model, 2, num_classes=[5, 3], classifier="classifier", head_factory=factory
        )
    before.assert_unchanged()
    handle.remove()
    assert not model.classifier._forward_hooks


def test_a_norm_that_cannot_be_copied_is_named_and_the_model_untouched() -> None:
    class Uncopyable(nn.BatchNorm2d):
        def __deepcopy__(self, memo):
            raise RuntimeError("holds a lock")

    model = ConvNet()
    model.bn2 = Uncopyable(6)
    model.bn1.register_forward_hook(lambda *_: None)
    before = Snapshot(model)
    with pytest.raises(ConversionError, match=r"bn2 \(Uncopyable\) cannot be copied: holds a lock"):
        dabnn.convert_to_dataset_aware(model, 2)
    before.assert_unchanged()


def test_a_parametrised_classifier_is_refused_rather_than_built_wrong() -> None:
    model = ConvNet()
    nn.utils.parametrizations.weight_norm(model.classifier)
    before = Snapshot(model)
    with pytest.raises(ClassifierNotFoundError, match="head_factory"):
        dabnn.convert_to_dataset_aware(model, 2, num_classes=[5, 3], classifier="classifier")
    before.assert_unchanged()


def test_skipped_norms_stay_shared() -> None:
    model = dabnn.convert_to_dataset_aware(ConvNet(), 2, skip="bn1")
    assert type(model.bn1) is nn.BatchNorm2d
    assert isinstance(model.bn2, dabnn.DatasetAwareBatchNorm)


def test_the_report_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dabnn"):
        dabnn.convert_to_dataset_aware(ConvNet(), dataset_names=["a", "b"])
    assert "2 batch norms for 2 datasets (a, b): 2 BatchNorm2d" in caplog.text


def test_smp_models_get_a_classifier_per_dataset_without_a_path() -> None:
    plain = smp.PSPNet("resnet18", encoder_weights=None, classes=19)
    model = dabnn.convert_to_dataset_aware(plain, 2, num_classes=[19, 11]).eval()
    x = torch.randn(1, 3, 64, 64)
    assert [on(model, i, x).shape for i in range(2)] == [(1, 19, 64, 64), (1, 11, 64, 64)]


def test_plain_saving_of_a_converted_smp_model_names_the_way_out(tmp_path) -> None:
    model = dabnn.convert_to_dataset_aware(smp.FPN("resnet18", encoder_weights=None), 2)
    for save in (model.save_pretrained, model.push_to_hub):
        with pytest.raises(dabnn.errors.DabnnError, match="extract_dataset"):
            save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_dataset_is_always_selected() -> None:
    plain = randomise(ConvNet()).eval()
    model = dabnn.convert_to_dataset_aware(copy.deepcopy(plain), 1)
    assert_equal(model(image_batch()), plain(image_batch()))


@settings(max_examples=15)
@given(net=nets(), n=st.integers(1, 4))
def test_every_branch_of_a_random_net_equals_the_original(net, n) -> None:
    assert_drop_in(net.build(), net.batch(), n=n)


@settings(max_examples=10)
@given(net=nets(), n=st.integers(1, 4), steps=st.integers(1, 3))
def test_a_converted_model_trains_like_plain_models_that_share_their_convolutions(net, n, steps) -> None:
    """The reference: N models kept by hand, whose convolutions are the same Parameters."""
    model = dabnn.convert_to_dataset_aware(net.build(), n)
    kept = [net.build() for _ in range(n)]
    for other in kept[1:]:
        for ours, theirs in zip(kept[0].modules(), other.modules(), strict=True):
            if not isinstance(ours, _BatchNorm):
                theirs._parameters.update(ours._parameters)
    parameters = {id(p): p for one in kept for p in one.parameters()}
    optimizers = [
        torch.optim.SGD(p, lr=0.05, momentum=0.9) for p in (model.parameters(), parameters.values())
    ]
    for _ in range(steps):
        for i, one in enumerate(kept):
            a, b = on(model, i, net.batch() + i), seeded(one, net.batch() + i)
            assert_equal(a, b)
            a.square().mean().backward()
            b.square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for i, one in enumerate(kept):
        assert_equal(dict(dabnn.extract_dataset(model, i).state_dict()), dict(one.state_dict()))


def test_classifiers_that_share_a_weight_share_it_in_every_branch() -> None:
    class Tied(ConvNet):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Conv2d(6, 5, 1)
            self.auxiliary.weight = self.classifier.weight

    model = aware(Tied(), 2, num_classes=[5, 5], classifier=["classifier", "auxiliary"])
    for main, auxiliary in zip(model.classifier.heads, model.auxiliary.heads, strict=True):
        assert main.weight is auxiliary.weight
