from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from toy_models import ConvNet, TwiceNamed, assert_equal, aware, randomise

import dabnn
from dabnn.errors import ConversionError

FOLDED_WHOLLY = {
    "PSPNet": lambda: smp.PSPNet("resnet18", encoder_weights=None),
    "Unet": lambda: smp.Unet("resnet18", encoder_weights=None),
    "DeepLabV3Plus": lambda: smp.DeepLabV3Plus("tu-mobilenetv3_small_050", encoder_weights=None),
    "resnet": lambda: timm.create_model("resnet18"),
    "efficientnet": lambda: timm.create_model("efficientnet_lite0"),
    "mobilenet": lambda: timm.create_model("mobilenetv3_small_050"),
}


def norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms that a forward runs: SMP's PSPNet has encoder stages that it leaves out."""
    ran: list[nn.Module] = []
    found = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    handles = [norm.register_forward_hook(lambda m, *_: ran.append(m)) for norm in found]
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    for handle in handles:
        handle.remove()
    return list(dict.fromkeys(ran))


@pytest.mark.parametrize("build", FOLDED_WHOLLY.values(), ids=FOLDED_WHOLLY.keys())
def test_every_norm_of_common_networks_is_folded(build) -> None:
    torch.manual_seed(0)
    model = calibrated(build())
    before = copy.deepcopy(model.state_dict())
    folded = dabnn.fold_batch_norm(model)
    assert not norms(folded)
    assert type(folded) is type(model)
    assert_equal(dict(model.state_dict()), dict(before))
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        expected = model.double()(x.double())
        error = (folded.double()(x.double()) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


def calibrated(model: nn.Module) -> nn.Module:
    """A network in eval mode whose statistics fit some images, as those of a trained one do."""
    dabnn.recalibrate_batch_norm(model, [(torch.randn(8, 3, 64, 64), None)])
    return model.eval()


def test_an_extracted_dataset_is_folded() -> None:
    plain = dabnn.extract_dataset(aware(), 1)
    folded = dabnn.fold_batch_norm(plain)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(folded(x), plain(x), rtol=1e-4, atol=1e-4)


def test_norms_before_activations_stay() -> None:
    model = calibrated(timm.create_model("densenet121"))
    folded = dabnn.fold_batch_norm(model)
    assert 0 < len(norms(folded)) < len(norms(model))
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-3, atol=1e-3)


def test_a_norm_that_runs_twice_stays() -> None:
    model = randomise(TwiceNamed()).eval()
    assert len(norms(model)) == len(norms(dabnn.fold_batch_norm(model, torch.randn(1, 3, 8, 8)))) == 1


def test_a_convolution_that_is_used_in_another_way_too_is_noticed() -> None:
    class Skip(ConvNet):
        def forward(self, x):
            x = self.conv1(x)
            return self.conv2((self.bn1(x) + x).relu())

    with pytest.raises(ConversionError, match=r"the folded model differs .* serve it unfolded"):
        dabnn.fold_batch_norm(randomise(Skip()))


def test_a_dataset_aware_model_is_refused() -> None:
    with pytest.raises(ConversionError, match="extract_dataset"):
        dabnn.fold_batch_norm(aware())
