"""Every SMP family with several encoders: conversion, classifiers, extraction, bit for bit."""

from __future__ import annotations

from pathlib import Path

import catalogue
import contracts
import pytest
import segmentation_models_pytorch as smp
import torch
from catalogue import SMP_FAMILIES, Architecture

import dabnn
from dabnn.errors import DabnnError

CLASSES = (19, 11, 7)
TINY_ENCODERS = {"DPT": "tu-test_vit"}


@pytest.mark.parametrize("family", SMP_FAMILIES)
def test_every_family_with_a_tiny_encoder(family: str, tmp_path: Path) -> None:
    model = SMP_FAMILIES[family](
        TINY_ENCODERS.get(family, "tu-test_resnet"), encoder_weights=None, classes=11
    )
    images = catalogue.example_inputs(Architecture("smp", family), model)
    keys, original = list(model.state_dict()), type(model)
    model.eval()
    with torch.no_grad():
        expected = model(*images)
    aware = dabnn.convert_to_dataset_aware(model, 3, num_classes=CLASSES)
    for i, number in enumerate(CLASSES):
        with dabnn.use_dataset(aware, i), torch.no_grad():
            output = aware(*images)
        assert output.shape[:2] == (2, number)
        assert number != 11 or torch.equal(output, expected)
        plain = dabnn.extract_dataset(aware, i)
        assert type(plain) is original
        assert list(plain.state_dict()) == keys
        assert plain.config["classes"] == number
    plain.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(*images), output)
    with pytest.raises(DabnnError, match="extract_dataset"):
        aware.save_pretrained(tmp_path)


def test_the_classification_head_stays_shared() -> None:
    model = smp.Unet("tu-test_resnet", encoder_weights=None, classes=11, aux_params={"classes": 4})
    head = model.classification_head
    keys = list(model.state_dict())
    aware = dabnn.convert_to_dataset_aware(model.eval(), 3, num_classes=CLASSES)
    assert aware.classification_head is head
    for i, number in enumerate(CLASSES):
        with dabnn.use_dataset(aware, i), torch.no_grad():
            masks, labels = aware(torch.zeros(2, 3, 64, 64))
        assert (masks.shape[1], labels.shape[1]) == (number, 4)
        plain = dabnn.extract_dataset(aware, i)
        assert list(plain.state_dict()) == keys
        assert plain.config["classes"] == number
        assert plain.config["aux_params"] == {"classes": 4}


@pytest.mark.matrix
@pytest.mark.parametrize("architecture", catalogue.smp_architectures(), ids=lambda a: a.name)
def test_every_combination(architecture: Architecture) -> None:
    structure = contracts.check_structure(architecture)
    if structure.status in ("refused", "no batch norm"):
        pytest.skip(structure.reason or structure.status)
    assert structure.status == "converted", structure.reason
    assert structure.n_classifiers == 1
    contracts.check_branches(architecture)
    contracts.check_widths(architecture, CLASSES)


@pytest.mark.matrix
@pytest.mark.parametrize("family", SMP_FAMILIES)
def test_at_least_five_encoders(family: str) -> None:
    own = [a for a in catalogue.smp_architectures() if a.name.startswith(f"{family}/")]
    assert sum(contracts.check_structure(a).status == "converted" for a in own) >= 5
