"""Every timm architecture: conversion, classifiers, extraction; the smallest of each file bit for bit."""

from __future__ import annotations

import copy

import catalogue
import contracts
import pytest
import timm
import torch
from catalogue import Architecture

import dabnn
from dabnn.conversion.libraries import find_classifiers
from dabnn.errors import ClassifierNotFoundError

# Fast, and different: batch norms with activations, two classifiers, a batch norm inside the classifier.
FAST = ("test_resnet", "test_efficientnet", "test_byobnet", "lcnet_050", "levit_128s")


@pytest.mark.parametrize("name", FAST)
def test_fast_architectures(name: str) -> None:
    architecture = Architecture("timm", name)
    structure = contracts.check_structure(architecture)
    assert structure.status == "converted", structure.reason
    contracts.check_branches(architecture)
    contracts.check_widths(architecture, (7, 5, 3))


@pytest.mark.parametrize(
    ("name", "classifiers"),
    [
        ("resnet18", ["fc"]),
        ("levit_384_s8", ["head.linear", "head_dist.linear"]),  # the configuration names only the first
        ("volo_d1_224", ["head", "aux_head"]),  # get_classifier() names only the first
        ("efficientvim_m1", ["heads.0", "heads.1", "heads.2", "heads.3"]),
        ("iformer_m_distilled", ["head.head.l", "head.head_dist.l"]),
        ("cpubone_b0_bfrobust", ["head.classifier.linear"]),
    ],
)
def test_all_classifiers_are_found(name: str, classifiers: list[str]) -> None:
    assert find_classifiers(Architecture("timm", name).skeleton()) == classifiers


def test_classifiers_are_found_without_a_pretrained_configuration() -> None:
    model = timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=4)
    assert find_classifiers(model) == ["fc"]


def test_a_replaced_classifier_is_found() -> None:
    model = timm.create_model("test_resnet")
    model.fc = torch.nn.Sequential(torch.nn.Linear(model.num_features, 16), torch.nn.Linear(16, 4))
    assert find_classifiers(model) == ["fc.1"]


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"features_only": True}])
def test_headless_models_are_converted_by_their_norms_only(options: dict[str, object]) -> None:
    model = timm.create_model("test_resnet", **options)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ClassifierNotFoundError, match="num_classes"):
        dabnn.convert_to_dataset_aware(model, 2, num_classes=[3, 4])
    assert model.state_dict().keys() == before.keys()
    plain = dabnn.extract_dataset(dabnn.convert_to_dataset_aware(model, 2), 1)
    assert list(plain.state_dict()) == list(before)


@pytest.mark.matrix
@pytest.mark.parametrize("name", timm.list_models())
def test_every_architecture(name: str) -> None:
    structure = contracts.check_structure(Architecture("timm", name))
    assert structure.status in ("converted", "no batch norm"), structure.reason
    assert structure.n_classifiers or structure.n_bn == 0, structure.reason


@pytest.mark.matrix
@pytest.mark.parametrize("file", timm.list_modules())
def test_smallest_architecture_of_every_file(file: str) -> None:
    architecture = contracts.smallest(catalogue.timm_files()[file])
    if architecture is None:
        pytest.skip(f"no architecture in timm's {file} has a batch norm")
    contracts.check_branches(architecture)
    contracts.check_widths(architecture, (7, 5, 3))
