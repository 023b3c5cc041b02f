from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn
from toy_models import ConvNet, Snapshot, assert_refused, aware

import dabnn
from dabnn.errors import ClassifierNotFoundError, ConversionError, NoBatchNormFoundError


def test_a_plan_lists_sites_and_changes_nothing() -> None:
    model = ConvNet()
    model.bn2 = torchvision.ops.FrozenBatchNorm2d(6)
    before = Snapshot(model)
    report = dabnn.plan_conversion(
        model, dataset_names=["a", "b"], num_classes=[5, 3], classifier="classifier"
    )
    before.assert_unchanged()
    assert report.dataset_names == ("a", "b")
    assert report.num_classes == (5, 3)
    assert [(site.path, site.module) for site in report.norms] == [("bn1", "BatchNorm2d")]
    assert [(site.path, site.module) for site in report.classifiers] == [("classifier", "Conv2d")]
    assert [(s.path, s.reason) for s in report.skipped] == [("bn2", "frozen statistics")]


def test_a_printed_plan_says_what_and_why() -> None:
    model = ConvNet()
    model.bn2 = torchvision.ops.FrozenBatchNorm2d(6)
    text = str(dabnn.plan_conversion(model, 2, num_classes=[5, 3], classifier="classifier"))
    assert text.splitlines() == [
        "1 batch norms for 2 datasets (dataset_0, dataset_1): 1 BatchNorm2d",
        "classifier classifier: classes [5, 3]",
        "skipped bn2 (FrozenBatchNorm2d): frozen statistics",
    ]


def test_the_plan_is_what_the_conversion_does() -> None:
    model = timm.create_model("test_efficientnet")
    report = dabnn.plan_conversion(model, 2)
    dabnn.convert_to_dataset_aware(model, 2)
    switches = {path for path, m in model.named_modules() if isinstance(m, dabnn.DatasetSwitch)}
    assert {site.path for site in report.norms} == switches


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "give n_datasets >= 1 or dataset_names"),
        ({"n_datasets": 0}, "n_datasets=0"),
        ({"n_datasets": True}, "n_datasets=True"),
        ({"n_datasets": 2.0}, r"n_datasets=2\.0"),
        ({"n_datasets": 2, "dataset_names": ["a"]}, r"n_datasets=2, but 1 names: \['a'\]"),
        ({"dataset_names": []}, "non-empty sequence of names"),
        ({"dataset_names": "abc"}, "sequence of names, got 'abc'"),
        ({"dataset_names": ["a", "a"]}, "must be unique"),
        ({"dataset_names": ["a", ""]}, "non-empty strings"),
        ({"dataset_names": ["a", 1]}, "non-empty strings, got 1"),
        ({"n_datasets": 2, "num_classes": [5]}, "list of 2 numbers"),
        ({"n_datasets": 2, "num_classes": 5}, "num_classes=5 must be a list of 2 numbers"),
        ({"n_datasets": 2, "num_classes": "ab"}, "list of 2 numbers"),
        ({"n_datasets": 2, "num_classes": [5, 0]}, "positive integers"),
        ({"n_datasets": 2, "num_classes": [5, True]}, "positive integers"),
        ({"n_datasets": 2, "classifier": "classifier"}, "need num_classes"),
        ({"n_datasets": 2, "head_factory": "any"}, "need num_classes"),
        ({"n_datasets": 2, "skip": "bn3"}, r"skip='bn3' matches no norm; .*'bn1', 'bn2'"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(kwargs, message) -> None:
    model = ConvNet()
    before = Snapshot(model)
    for function in (dabnn.plan_conversion, dabnn.convert_to_dataset_aware):
        with pytest.raises(ValueError, match=message):
            function(model, **kwargs)
    before.assert_unchanged()


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (None, r"no classifier is known for toy_models\.ConvNet; pass classifier=.*'classifier'"),
        ("head", "classifier 'head' is not a module of the model"),
        ("conv1.weight", "is not a module of the model"),
        ("", "cannot be its own classifier"),
        ("bn1", "classifier 'bn1' is a BatchNorm2d, which cannot be resized"),
    ],
)
def test_a_classifier_that_cannot_be_used(classifier, message) -> None:
    model = ConvNet()
    before = Snapshot(model)
    with pytest.raises(ClassifierNotFoundError, match=message):
        dabnn.convert_to_dataset_aware(model, 2, num_classes=[2, 3], classifier=classifier)
    before.assert_unchanged()


def test_a_classifier_block_is_told_which_layer_to_name() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.Dropout(), nn.Conv2d(3, 5, 1)))
    with pytest.raises(ClassifierNotFoundError, match=r"one of \['1\.1'\]"):
        dabnn.plan_conversion(model, 2, num_classes=[2, 3], classifier="1")


def test_what_is_not_a_module_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"expected a torch\.nn\.Module, got dict"):
        dabnn.plan_conversion({}, 2)


@pytest.mark.parametrize("skip", ["bn*", ["bn1", "bn2"]])
def test_all_norms_skipped_is_an_error(skip) -> None:
    with pytest.raises(NoBatchNormFoundError, match=r"every norm is skipped: 2 BatchNorm2d \(excluded by"):
        dabnn.plan_conversion(ConvNet(), 2, skip=skip)


def test_all_norms_may_be_shared_on_purpose_under_private_classifiers() -> None:
    model = dabnn.convert_to_dataset_aware(
        ConvNet(), 2, num_classes=[5, 3], classifier="classifier", skip="bn*"
    )
    switches = [m for m in model.modules() if isinstance(m, dabnn.DatasetSwitch)]
    assert switches == [model.classifier]


def test_skip_takes_any_of_the_paths_of_a_shared_norm() -> None:
    model = ConvNet()
    model.again = model.bn1
    assert [site.path for site in dabnn.plan_conversion(model, 2, skip="again").norms] == ["bn2"]


def test_errors_are_of_the_kinds_that_callers_expect() -> None:
    assert issubclass(ConversionError, TypeError)
    assert issubclass(NoBatchNormFoundError, ValueError)
    assert issubclass(NoBatchNormFoundError, dabnn.errors.DabnnError)


def test_a_converted_part_is_named_by_its_path() -> None:
    with pytest.raises(ConversionError, match=r"1\.bn1 \(DatasetAwareBatchNorm\)"):
        dabnn.plan_conversion(nn.Sequential(nn.BatchNorm2d(3), aware()), 2)


class Listed(nn.Module):
    """Loops over a plain list of its layers, as a hand-written network may."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.order = {"first": [self.conv, self.bn]}


def test_a_norm_that_is_also_used_outside_the_module_tree_is_refused() -> None:
    assert_refused(Listed(), r"order refers to bn \(BatchNorm2d\) outside the module tree.*ModuleList")
    with pytest.raises(NoBatchNormFoundError):  # kept shared, it may stay where it is
        dabnn.plan_conversion(Listed(), 2, skip="bn")


def test_a_norm_with_a_forward_of_its_own_is_refused() -> None:
    model = ConvNet()
    original = model.bn1.forward
    model.bn1.forward = lambda x: original(x) * 2
    assert_refused(model, r"bn1 \(BatchNorm2d\): its forward was replaced on this instance")


def test_a_norm_of_both_body_and_classifier_is_refused() -> None:
    model = ConvNet()
    model.head = nn.Sequential(model.bn1, nn.Conv2d(4, 5, 1))
    assert_refused(
        model,
        r"BatchNorm2d \['bn1', 'head\.0'\] is used inside a norm or classifier .* and outside",
        num_classes=[5, 3],
        classifier="head",
        head_factory=lambda old, n: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, n, 1)),
    )


def test_norms_inside_a_classifier_belong_to_its_branches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1)))
    report = dabnn.plan_conversion(
        model,
        2,
        num_classes=[2, 3],
        classifier="1",
        head_factory=lambda old, n: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, n, 1)),
    )
    assert [site.path for site in report.norms] == ["0"]


def test_norms_inside_a_norm_belong_to_its_branches() -> None:
    class Twofold(nn.BatchNorm2d):
        def __init__(self) -> None:
            super().__init__(3)
            self.inner = nn.BatchNorm2d(3)

    assert [site.path for site in dabnn.plan_conversion(nn.Sequential(Twofold()), 2).norms] == ["0"]


class Gained(nn.Conv2d):
    """A convolution with one more tensor of the width of its output, as timm's ScaledStdConv2d."""

    def __init__(self) -> None:
        super().__init__(6, 5, 1)
        self.gain = nn.Parameter(torch.ones(5, 1, 1, 1))


@pytest.mark.parametrize(
    ("classifier", "num_classes", "message"),
    [
        (Gained(), [5, 3], r"holds \['gain'\]; pass head_factory"),
        (nn.Conv2d(6, 4, 1, groups=2), [4, 3], r"its 2 groups do not divide \[4, 3\]"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 5, 1)), [5, 3], "parametrizations"),
    ],
    ids=["extra tensor", "groups", "parametrised"],
)
def test_a_classifier_that_cannot_be_resized_is_refused(classifier, num_classes, message) -> None:
    model = ConvNet()
    model.classifier = classifier
    refused = {"error": ClassifierNotFoundError, "classifier": "classifier", "num_classes": num_classes}
    assert_refused(model, message, **refused)
    width = num_classes[0]
    aware(model, 2, classifier="classifier", num_classes=[width, width])  # nothing to resize


def test_an_attribute_where_the_selection_goes_is_refused() -> None:
    model = ConvNet()
    model.dataset_selection = "mine"
    assert_refused(model, "has an attribute 'dataset_selection' of its own")
