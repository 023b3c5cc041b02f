"""The zoo: names, what is built for them, and errors that help."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dabnn
from dabnn.data import load_space
from dabnn.errors import ConfigError, UnknownModelError
from dabnn.layers import DatasetAwareBatchNorm
from dabnn.models import registry
from dabnn.models.registry import Entry, entries
from dabnn.models.stored.source import source_of

ALIASES = ("cdcl-pspnet-r18", "cdcl-pspnet-r101", "cdcl-pspnet-lite0", "cdcl-segformer-b0")


def test_every_name_of_the_zoo_has_an_architecture_and_an_alias_of_its_own():
    assert {entry.alias for entry in entries().values()} == set(ALIASES)
    architectures = set(dabnn.list_models()) - set(entries())
    assert {entry.architecture for entry in entries().values()} <= architectures


@pytest.mark.parametrize("name", ALIASES)
def test_a_model_is_built_by_its_alias_with_a_classifier_per_dataset(name):
    if name == "cdcl-pspnet-r101":
        with torch.device("meta"):
            model = dabnn.create_model(name)
        assert sum(p.numel() for p in dabnn.shared_parameters(model)) > 60e6
        return
    model = dabnn.create_model(name).eval()
    widths = {}
    for dataset in dabnn.dataset_names(model):
        with dabnn.use_dataset(model, dataset), torch.no_grad():
            widths[dataset] = model(torch.zeros(1, 3, 64, 96)).shape[1:]
    assert widths == {d: (n, 64, 96) for d, n in {"cityscapes": 19, "camvid": 11, "idd": 7}.items()}


def test_a_name_stands_for_arguments_that_the_user_may_change(monkeypatch):
    entry = Entry("pspnet_lite0_os16.test", "test", datasets={"camvid": "camvid"}, arguments={"channels": 32})
    monkeypatch.setattr(registry, "entries", lambda: {entry.name: entry})
    for given, channels in (({}, 32), ({"channels": 16}, 16)):
        plain = dabnn.extract_dataset(dabnn.create_model("test", **given), "camvid")
        assert source_of(plain).arguments["channels"] == channels
        assert source_of(plain).arguments["output_stride"] == 16


@pytest.mark.parametrize("entry", [e for e in entries().values() if not e.pretrained], ids=lambda e: e.alias)
def test_what_a_model_without_weights_will_be_is_known(entry):
    info = dabnn.get_pretrained_cfg(entry.alias)
    assert (info.name, info.sha256) == (entry.name, "")
    assert "2103.11351" in info.paper
    assert list(info.datasets) == list(dabnn.get_pretrained_cfg(entry.name).datasets)
    for name, space in entry.datasets.items():
        assert info.datasets[name].classes == load_space(space).classes
        assert info.datasets[name].palette == load_space(space).palette
        assert info.datasets[name].metrics == {}


def test_the_transformer_has_branches_for_its_layer_norms():
    model = dabnn.create_model("segformer_b0", dataset_names=["a", "b"], num_classes=[3, 4])
    switched = [m for m in model.modules() if isinstance(m, DatasetAwareBatchNorm)]
    assert sum(isinstance(m.branches[0], nn.LayerNorm) for m in switched) == 30
    assert any(isinstance(m.branches[0], nn.BatchNorm2d) for m in switched)


def test_models_are_listed_by_patterns_of_either_name():
    assert dabnn.list_models("*r18*") == ["pspnet_resnet18_os8.cdcl"]
    assert dabnn.list_models("pspnet_resnet18*") == ["pspnet_resnet18_os8", "pspnet_resnet18_os8.cdcl"]
    assert dabnn.list_models(pretrained=True) == sorted(n for n, e in entries().items() if e.pretrained)


def test_unknown_names_get_the_nearest_ones():
    for function in (dabnn.create_model, dabnn.from_pretrained):
        with pytest.raises(UnknownModelError, match="did you mean cdcl-pspnet-r18"):
            function("cdcl-pspnet-r19")
    with pytest.raises(UnknownModelError, match=r"is an architecture; names of weights for it: .*os8.cdcl"):
        dabnn.from_pretrained("pspnet_resnet18_os8")
    with pytest.raises(UnknownModelError, match="there are pspnet"):
        dabnn.from_pretrained("zzz")


def test_datasets_and_numbers_must_fit():
    for options in ({}, {"dataset_names": ["a"]}, {"dataset_names": ["a"], "num_classes": [1, 2]}):
        with pytest.raises(ValueError, match="one number for each name"):
            dabnn.create_model("pspnet_lite0_os16", **options)


def test_an_own_architecture_is_registered_and_built(monkeypatch):
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))

    @dabnn.register_model(share_affine=True)
    def my_net(num_classes, width=4):
        return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width), nn.Conv2d(width, num_classes, 1))

    assert "my_net" in dabnn.list_models()
    with pytest.raises(dabnn.errors.ClassifierNotFoundError, match="pass classifier="):
        dabnn.create_model("my_net", dataset_names=["a"], num_classes=[2])

    def pspnet_resnet18_os8(num_classes):
        return None

    with pytest.raises(ValueError, match="there is an architecture 'pspnet_resnet18_os8' already"):
        dabnn.register_model(pspnet_resnet18_os8)


@pytest.mark.parametrize("entry", [e for e in entries().values() if not e.pretrained], ids=lambda e: e.alias)
def test_models_without_weights_say_so(entry):
    with pytest.raises(ConfigError, match=r"there are no weights for .* yet"):
        dabnn.from_pretrained(entry.alias)
