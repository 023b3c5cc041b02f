"""PSPNet: sizes, the dilation, the auxiliary head, the conversion."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F

import dabnn
from dabnn.models import PSPNet
from dabnn.training.batch import cross_entropy

SMALL = {"channels": 16, "num_classes": 5}


@pytest.mark.parametrize("stride", [8, 16])
def test_features_have_the_output_stride_and_logits_the_size_of_the_images(stride):
    model = PSPNet("resnet18", output_stride=stride, **SMALL).eval()
    images = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        assert model.backbone(images)[-1].shape[-2:] == (96 // stride, 160 // stride)
        assert model(images).shape == (2, 5, 96, 160)


def test_enlarging_is_inside_the_network():
    model, plain = (PSPNet("test_resnet", enlarge=factor, **SMALL).eval() for factor in (2, 1))
    plain.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        features = plain.backbone(F.interpolate(images, (96, 160), mode="bilinear"))[-1]
        logits = plain.classifier(plain.bottleneck(plain.pyramid(features)))
        assert torch.allclose(model(images), F.interpolate(logits, (48, 80), mode="bilinear"))


def test_the_pyramid_averages_over_grids_of_1_2_3_and_6():
    model = PSPNet("test_resnet", **SMALL)
    assert [stage[0].output_size for stage in model.pyramid.stages] == [1, 2, 3, 6]
    assert model.bottleneck[0].kernel_size == (3, 3)


def test_every_weight_gets_a_gradient_and_the_auxiliary_head_is_for_training_only():
    model = PSPNet("test_resnet", auxiliary=True, **SMALL)
    images, masks = torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    outputs = model(images)
    (
        cross_entropy(outputs, (images, masks)) + 0.4 * cross_entropy(outputs["aux"], (images, masks))
    ).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert isinstance(model.eval()(images), torch.Tensor)


def test_conversion_finds_both_classifiers_and_extraction_gives_a_pspnet_back():
    model = PSPNet("test_resnet", auxiliary=True, **SMALL)
    keys = set(model.state_dict())
    aware = dabnn.convert_to_dataset_aware(model, dataset_names=["a", "b"], num_classes=[5, 7])
    plain = dabnn.extract_dataset(aware, "b")
    assert type(plain) is PSPNet
    assert set(plain.state_dict()) == keys
    assert plain.num_classes == 7
    outputs = plain(torch.randn(2, 3, 64, 64))
    assert {name: output.shape[1] for name, output in outputs.items()} == {"out": 7, "aux": 7}


def test_the_backbone_takes_the_weights_of_timms_model():
    plain = timm.create_model("resnet18").state_dict()
    model = PSPNet("resnet18", **SMALL)
    names = set(model.backbone.state_dict())
    assert set(plain) - names == {"fc.weight", "fc.bias"}
    model.backbone.load_state_dict({name: plain[name] for name in names})
