from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from toy_models import ConvNet, TwiceNamed, assert_equal, aware, image_batch, on

import dabnn
from dabnn.errors import ClassifierNotFoundError, UnknownDatasetError


def with_heads(n: int = 2) -> nn.Module:
    return aware(n=n, num_classes=[5, 3, 4][:n], classifier="classifier")


def outputs(model: nn.Module, names: tuple[str, ...]) -> list[torch.Tensor]:
    return [on(model, name, image_batch()) for name in names]


@pytest.mark.parametrize("build", [aware, with_heads, lambda: aware(TwiceNamed())])
def test_old_datasets_stay_bit_identical_while_only_the_new_one_is_trained(build) -> None:
    model = build()
    names, before = dabnn.dataset_names(model), outputs(model, dabnn.dataset_names(model))
    dabnn.add_dataset(model, "new", num_classes=4 if build is with_heads else None)
    assert dabnn.dataset_names(model) == (*names, "new")
    optimizer = torch.optim.AdamW(dabnn.branch_parameters(model, "new"), lr=0.1, weight_decay=0.1)
    model.train()
    fresh = on(model, "new", image_batch()).detach()
    for _ in range(3):
        optimizer.zero_grad()
        on(model, "new", image_batch()).square().mean().backward()
        optimizer.step()
    assert not torch.equal(on(model, "new", image_batch()), fresh)
    assert_equal(outputs(model.eval(), names), before)


def test_a_dataset_that_starts_from_one_computes_what_that_one_does() -> None:
    model = with_heads()
    dabnn.add_dataset(model, "new", num_classes=3, init_from="dataset_1")
    assert_equal(on(model, "new", image_batch()), on(model, "dataset_1", image_batch()))
    branch, source = set(dabnn.branch_parameters(model, "new")), set(dabnn.branch_parameters(model, 1))
    assert not branch & source


def test_a_dataset_that_starts_from_several_has_the_statistics_of_their_union() -> None:
    model = dabnn.convert_to_dataset_aware(nn.BatchNorm2d(3, momentum=1.0), 3)
    parts = [image_batch(4000, seed) * (seed + 1) + seed for seed in range(3)]
    for i, part in enumerate(parts):
        on(model, i, part)
    dabnn.add_dataset(model, "union", init_from=[0, 2])
    union = torch.cat([parts[0], parts[2]])
    torch.testing.assert_close(model.bns[3].running_mean, union.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.bns[3].running_var, union.var((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_parameters_are_averaged() -> None:
    model = aware(n=2)
    dabnn.add_dataset(model, "new")
    first, second, new = model.bn1.bns
    torch.testing.assert_close(new.weight, (first.weight + second.weight) / 2)
    assert new.weight.requires_grad
    assert new.weight.grad_fn is None


def test_one_classifier_per_dataset_of_any_width() -> None:
    model = with_heads()
    dabnn.add_dataset(model, "new", num_classes=7)
    assert on(model, "new", image_batch()).shape[1] == 7
    assert dabnn.extract_dataset(model, "new")(image_batch()).shape[1] == 7


def test_a_single_dataset_is_no_longer_active_on_its_own() -> None:
    model = aware(n=1)
    model(image_batch())
    dabnn.add_dataset(model, "new")
    with pytest.raises(dabnn.errors.NoActiveDatasetError):
        model(image_batch())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "dataset_0", "num_classes": 3}, ValueError, "must be unique"),
        ({"name": "", "num_classes": 3}, ValueError, "non-empty strings"),
        ({"name": "new"}, ValueError, "give num_classes >= 1, got None"),
        ({"name": "new", "num_classes": 0}, ValueError, "got 0"),
        ({"name": "new", "num_classes": 3, "init_from": "x"}, UnknownDatasetError, "unknown dataset 'x'"),
        ({"name": "new", "num_classes": 3, "init_from": []}, ValueError, "init_from is empty"),
    ],
    ids=str,
)
def test_wrong_arguments_change_nothing(arguments, error, message) -> None:
    model = with_heads()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        dabnn.add_dataset(model, **arguments)
    assert_equal(dict(model.state_dict()), dict(before))
    assert len(dabnn.dataset_names(model)) == 2


def test_shared_classifiers_take_no_number_of_classes() -> None:
    with pytest.raises(ValueError, match="share their classifier here"):
        dabnn.add_dataset(aware(), "new", num_classes=3)


def test_classifiers_of_any_kind_need_their_factory() -> None:
    model = aware(
        n=2,
        num_classes=[5, 3],
        classifier="classifier",
        head_factory=lambda old, n: nn.Sequential(nn.Dropout(), nn.Conv2d(6, n, 1)),
    )
    with pytest.raises(ClassifierNotFoundError, match="head_factory"):
        dabnn.add_dataset(model, "new", num_classes=4)
    dabnn.add_dataset(
        model,
        "new",
        num_classes=4,
        head_factory=lambda old, n: nn.Sequential(nn.Dropout(), nn.Conv2d(6, n, 1)),
    )
    assert on(model, "new", image_batch()).shape[1] == 4
    assert not model.classifier.heads[2].training


def test_removing_a_dataset_leaves_the_others_bit_identical() -> None:
    model = with_heads(3)
    kept = ("dataset_0", "dataset_2")
    before = outputs(model, kept)
    dabnn.set_dataset(model, "dataset_2")
    dabnn.remove_dataset(model, "dataset_1")
    assert dabnn.dataset_names(model) == kept
    assert dabnn.active_dataset(model) == "dataset_2"
    assert_equal(outputs(model, kept), before)
    dabnn.remove_dataset(model, "dataset_2")
    assert dabnn.active_dataset(model) == "dataset_0"  # the only one
    with pytest.raises(ValueError, match="only dataset; take the plain model"):
        dabnn.remove_dataset(model, 0)


def test_an_active_dataset_that_is_removed_leaves_none_active() -> None:
    model = aware()
    dabnn.set_dataset(model, 1)
    dabnn.remove_dataset(model, 1)
    assert dabnn.active_dataset(model) is None


def test_adding_and_removing_gives_the_state_dict_back() -> None:
    model = dabnn.convert_to_dataset_aware(
        smp.PSPNet("resnet18", encoder_weights=None, classes=5), 2, num_classes=[5, 3]
    )
    before = copy.deepcopy(model.state_dict())
    dabnn.add_dataset(model, "new", num_classes=9)
    dabnn.remove_dataset(model, "new")
    assert_equal(dict(model.state_dict()), dict(before))


def test_wrapped_models_take_datasets() -> None:
    model = aware()
    dabnn.add_dataset(torch.optim.swa_utils.AveragedModel(model), "new")
    assert len(dabnn.dataset_names(model)) == 3  # a copy was averaged
    dabnn.add_dataset(torch.compile(model), "new")
    assert len(dabnn.dataset_names(model)) == 4
    assert type(dabnn.extract_dataset(model, "new")) is ConvNet
