"""Every torchvision architecture: conversion, classifiers, extraction; all segmentation bit for bit."""

from __future__ import annotations

import catalogue
import contracts
import pytest
import torch
from catalogue import Architecture
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import dabnn
from dabnn.conversion.libraries import find_classifiers
from dabnn.errors import ClassifierNotFoundError, NoBatchNormFoundError

CLASSES = (19, 11, 7)
FILES = catalogue.torchvision_files()


@pytest.mark.parametrize(
    ("name", "classifiers"),
    [
        ("resnet18", ["fc"]),
        ("mobilenet_v3_small", ["classifier.3"]),
        ("maxvit_t", ["classifier.5"]),
        ("googlenet", ["fc", "aux1.fc2", "aux2.fc2"]),
        ("inception_v3", ["fc", "AuxLogits.fc"]),
        ("fcn_resnet50", ["classifier.4"]),
        ("deeplabv3_resnet50/aux_loss", ["classifier.4", "aux_classifier.4"]),
        ("lraspp_mobilenet_v3_large", ["classifier.low_classifier", "classifier.high_classifier"]),
    ],
)
def test_all_classifiers_are_found(name: str, classifiers: list[str]) -> None:
    architecture = Architecture("torchvision", name)
    assert find_classifiers(architecture.skeleton()) == classifiers
    structure = contracts.check_structure(architecture)
    assert (structure.status, structure.n_classifiers) == ("converted", len(classifiers)), structure.reason


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large/aux_loss"])
def test_segmentation_with_all_its_heads(name: str) -> None:
    architecture = Architecture("torchvision", name)
    contracts.check_branches(architecture)
    outputs = contracts.check_widths(architecture, CLASSES)
    assert all(output.keys() == outputs[0].keys() for output in outputs)
    assert ("aux" in outputs[0]) == name.endswith("aux_loss")


def test_detection_models_are_converted_by_their_norms_only() -> None:
    architecture = Architecture("torchvision", "fasterrcnn_mobilenet_v3_large_320_fpn")
    with pytest.raises(ClassifierNotFoundError, match="norms only"):
        dabnn.plan_conversion(architecture.skeleton(), 2, num_classes=[3, 4])
    structure = contracts.check_structure(architecture)
    assert (structure.status, structure.n_classifiers) == ("converted", 0), structure.reason


def test_frozen_norms_are_named_in_the_refusal() -> None:
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d)
    with pytest.raises(NoBatchNormFoundError, match="20 FrozenBatchNorm2d"):
        dabnn.convert_to_dataset_aware(FasterRCNN(backbone, num_classes=3), 2)


def test_frozen_norms_are_skipped_beside_others() -> None:
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d)
    model = torch.nn.ModuleDict(
        {"detector": FasterRCNN(backbone, num_classes=3), "norm": torch.nn.BatchNorm2d(3)}
    )
    report = dabnn.plan_conversion(model, 2)
    assert [site.path for site in report.norms] == ["norm"]
    assert {site.reason for site in report.skipped} == {"frozen statistics"}
    assert len(report.skipped) == 20


@pytest.mark.matrix
@pytest.mark.parametrize(
    "architecture", [a for group in FILES.values() for a in group], ids=lambda architecture: architecture.name
)
def test_every_architecture(architecture: Architecture) -> None:
    structure = contracts.check_structure(architecture)
    assert structure.status in ("converted", "no batch norm"), structure.reason
    assert structure.n_classifiers or structure.n_bn == 0 or "norms only" in structure.reason


@pytest.mark.matrix
@pytest.mark.parametrize("file", FILES)
def test_segmentation_and_the_smallest_architecture_of_every_other_file(file: str) -> None:
    architecture = contracts.smallest(FILES[file])
    if architecture is None:
        pytest.skip(f"no architecture in torchvision's {file} has a batch norm")
    contracts.check_branches(architecture)
    if contracts.check_structure(architecture).n_classifiers:
        contracts.check_widths(architecture, CLASSES)
