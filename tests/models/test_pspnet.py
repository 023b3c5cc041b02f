"""PSPNet: sizes, the dilation, the auxiliary head, the conversion."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch.nn import functional as F

import dabnn
from dabnn.errors import CheckpointError, ConfigError
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


CLASSIFIERS = {
    "timm": lambda: timm.create_model("resnet18"),
    "smp": lambda: smp.encoders.get_encoder("resnet18", weights=None),
    "smp of timm": lambda: smp.encoders.get_encoder("tu-resnet18", weights=None),
    "whole smp": lambda: smp.FPN("resnet18", encoder_weights=None),
    "whole smp of timm": lambda: smp.FPN("tu-resnet18", encoder_weights=None),
    "torchvision": lambda: torchvision.models.resnet18(weights=None),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_backbone_takes_the_weights_of_each_librarys_resnet(kind):
    classifier = CLASSIFIERS[kind]()
    model = PSPNet("resnet18", **SMALL)
    model.load_backbone(classifier.state_dict())
    net = getattr(classifier, "encoder", classifier)
    net = getattr(net, "model", net)
    assert torch.equal(model.backbone.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    assert torch.equal(model.backbone.bn1.running_var, net.bn1.running_var)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_the_backbone_takes_a_classifier_whose_head_has_convolutions(name):
    classifier = timm.create_model(name)
    model = PSPNet(name, output_stride=16, **SMALL)
    model.load_backbone(classifier.state_dict())
    assert torch.equal(model.backbone.blocks[4][1].conv_pw.weight, classifier.blocks[4][1].conv_pw.weight)


def test_every_branch_of_a_converted_backbone_takes_them():
    model = dabnn.convert_to_dataset_aware(PSPNet("test_resnet", **SMALL), 2)
    plain = timm.create_model("test_resnet", num_classes=7)
    plain.bn1.running_mean.fill_(3)
    model.load_backbone(plain.state_dict())
    assert [branch.running_mean.unique().item() for branch in model.backbone.bn1.bns] == [3, 3]


def test_weights_of_another_backbone_are_refused_before_any_is_loaded():
    model = PSPNet("resnet18", **SMALL)
    before = model.backbone.conv1.weight.clone()
    weights = timm.create_model("resnet34").state_dict()
    weights["layer0.weight"] = weights.pop("conv1.weight")
    with pytest.raises(CheckpointError, match=r"nothing was loaded: missing conv1.weight; unexpected layer"):
        model.load_backbone(weights)
    assert torch.equal(model.backbone.conv1.weight, before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "timm has no backbone 'resnet19'; did you mean .*resnet18"),
        (
            "swin_tiny_patch4_window7_224",
            "'swin.*' cannot be dilated to output stride 8: PSPNet needs a",
        ),
        ("vgg11", "'vgg11' cannot be dilated to output stride 8"),
    ],
)
def test_backbones_that_do_not_fit_are_refused_with_what_is_needed(name, message):
    with pytest.raises(ConfigError, match=message):
        PSPNet(name)
