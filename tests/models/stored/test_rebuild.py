"""What is saved can be built again as it was; what cannot is refused before anything is written."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

import dabnn
from dabnn.errors import ConfigError
from dabnn.models import PSPNet

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def fpn():
    return smp.FPN("tu-test_resnet", encoder_weights=None, classes=5)


def converted(plain):
    return dabnn.convert_to_dataset_aware(plain, dataset_names=["north", "south"], num_classes=[5, 3]).eval()


def logits(model, name):
    with torch.no_grad(), dabnn.use_dataset(model, name):
        return model(IMAGES)


def test_models_that_cannot_be_built_again_are_not_saved(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    message = (
        r"cannot tell how to build a torch\.nn.*Sequential again.*safetensors.*call dabnn.load_state_dict"
    )
    with pytest.raises(ConfigError, match=message):
        dabnn.save_pretrained(dabnn.convert_to_dataset_aware(net, 2), tmp_path / "a")
    changed = fpn()
    changed.encoder.model.layer1[0].bn1.eps = 0.1
    with pytest.raises(ConfigError, match=r"differs at \d+ places, .*eps=1e-05.* instead of .*eps=0.1"):
        dabnn.save_pretrained(dabnn.convert_to_dataset_aware(changed, 2), tmp_path / "a")
    sigmoid = smp.FPN("tu-test_resnet", encoder_weights=None, classes=5, activation=nn.Sigmoid)
    with pytest.raises(ConfigError, match=r"could be saved, but not built again"):
        dabnn.save_pretrained(dabnn.convert_to_dataset_aware(sigmoid, 2), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_model_whose_attributes_were_changed_is_not_saved(tmp_path):
    plain = PSPNet("test_resnet", 5, channels=16)
    plain.enlarge = 2
    model = converted(plain)
    modes, state = [m.training for m in model.modules()], torch.random.get_rng_state()
    with pytest.raises(ConfigError, match="could be saved, but not built again: what its library builds"):
        dabnn.save_pretrained(model, tmp_path / "a")
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not (tmp_path / "a").exists()


def test_hooks_of_the_user_do_not_run_while_a_model_is_saved(tmp_path):
    model, calls = converted(fpn()), []
    model.encoder.register_forward_hook(lambda *arguments: calls.append(1))
    dabnn.save_pretrained(model, tmp_path / "a")
    assert calls == []


@pytest.mark.parametrize(
    "build",
    [
        lambda: PSPNet("resnet18.a1_in1k", 5, channels=16),
        lambda: smp.Unet("tu-resnet18.a1_in1k", encoder_weights=None, classes=5),
        lambda: timm.create_model("resnet18.a1_in1k", num_classes=5),
    ],
)
def test_a_backbone_that_names_weights_is_saved_by_its_architecture(tmp_path, build):
    model = converted(build())
    info = dabnn.save_pretrained(model, tmp_path)
    assert "a1_in1k" not in str(info.build.source)
    assert torch.equal(logits(dabnn.from_pretrained(tmp_path), "south"), logits(model, "south"))


def test_a_timm_model_without_its_arguments_is_not_saved(tmp_path):
    model = timm.create_model("test_resnet", num_classes=5, drop_rate=0.3)
    del model._model_args  # as timm before 1.0.31, and as models that it did not create
    with pytest.raises(
        ConfigError, match=r"has not kept the arguments .* timm.create_model of timm >= 1.0.31"
    ):
        dabnn.save_pretrained(converted(model), tmp_path / "a")
    assert not (tmp_path / "a").exists()
