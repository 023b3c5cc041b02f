from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from timm.models import create_feature_extractor as timm_feature_extractor
from torch import fx, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from toy_models import ConvNet, TwiceNamed, assert_equal, aware, image_batch, on

import dabnn


@pytest.mark.parametrize("build", [ConvNet, TwiceNamed])
def test_a_traced_model_follows_the_selection(build) -> None:
    model = aware(build())
    expected = [on(model, i, image_batch()) for i in range(3)]
    traced = fx.symbolic_trace(model)
    assert [on(traced, i, image_batch()).shape for i in range(3)] == [e.shape for e in expected]
    assert_equal([on(traced, i, image_batch()) for i in range(3)], expected)
    assert_equal([on(model, i, image_batch()) for i in range(3)], expected)


def test_tracing_needs_no_active_dataset_and_freezes_none() -> None:
    model = aware()
    with dabnn.use_dataset(model, 2):
        traced = fx.symbolic_trace(model)
    with pytest.raises(dabnn.errors.NoActiveDatasetError):
        traced(image_batch())
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert "bn1" in calls
    assert not [target for target in calls if "bns" in target]


def test_inputs_given_by_keyword_are_traced_too() -> None:
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.bn(input=x)

    model = aware(ByKeyword())
    traced = fx.symbolic_trace(model)
    for i in range(3):
        assert_equal(on(traced, i, image_batch()), on(model, i, image_batch()))


def test_a_traced_classifier_follows_the_selection() -> None:
    model = aware(num_classes=[5, 2, 3], classifier="classifier")
    traced = fx.symbolic_trace(model)
    assert [on(traced, i, image_batch()).shape[1] for i in range(3)] == [5, 2, 3]


def test_a_deep_copy_of_a_traced_model_owns_its_selection() -> None:
    traced = fx.symbolic_trace(aware())
    twin = copy.deepcopy(traced)
    with dabnn.use_dataset(twin, 1):
        assert dabnn.active_dataset(traced) is None
        twin(image_batch())


def test_a_graph_module_converts_and_is_extracted() -> None:
    plain = fx.symbolic_trace(ConvNet().eval())
    model = aware(copy.deepcopy(plain))
    extracted = dabnn.extract_dataset(model, 1)
    assert isinstance(extracted, fx.GraphModule)
    assert_equal(extracted(image_batch()), on(model, 1, image_batch()))
    assert list(extracted.state_dict()) == list(plain.state_dict())


def test_a_traced_model_is_extracted() -> None:
    model = aware()
    extracted = dabnn.extract_dataset(fx.symbolic_trace(model), 2)
    assert_equal(extracted(image_batch()), on(model, 2, image_batch()))


def test_torchvision_feature_extractors_follow_the_selection() -> None:
    model = aware(torchvision.models.resnet18(weights=None))
    nodes = ["layer1.0.bn1", "layer2", "fc"]
    assert set(nodes) - {"layer2"} <= set(get_graph_node_names(model)[1])
    extractor = create_feature_extractor(model, nodes)
    x = torch.randn(2, 3, 64, 64)
    for i in range(3):
        features = on(extractor, i, x)
        assert_equal(features["fc"], on(model, i, x))
        plain = create_feature_extractor(dabnn.extract_dataset(model, i), nodes)
        assert_equal(features, plain(x))


def test_timm_feature_extractors_follow_the_selection() -> None:
    model = aware(timm.create_model("test_efficientnet"))
    nodes = {"blocks.0": "low", "conv_head": "high"}
    extractor = timm_feature_extractor(model, nodes)
    x = torch.randn(2, 3, 64, 64)
    for i in range(3):
        assert_equal(on(extractor, i, x), timm_feature_extractor(dabnn.extract_dataset(model, i), nodes)(x))


def test_timm_feature_models_convert() -> None:
    model = aware(timm.create_model("test_resnet", features_only=True))
    x = torch.randn(2, 3, 64, 64)
    for i in range(3):
        assert_equal(on(model, i, x), dabnn.extract_dataset(model, i)(x))


def test_hooks_of_a_traced_model_run_once_and_not_while_tracing() -> None:
    model = aware(ConvNet().eval())
    seen: list[float] = []
    model.bn1.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().mean().item()))
    model.bn1.register_forward_hook(lambda module, args, output: 2 * output)
    traced = fx.symbolic_trace(model)
    assert seen == []
    assert_equal(on(traced, 1, image_batch()), on(model, 1, image_batch()))
    assert len(seen) == 2
