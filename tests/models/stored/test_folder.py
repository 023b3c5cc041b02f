"""A model as a folder: the same logits back, and nothing but safetensors, checked before they are used."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from PIL import Image
from torch import nn

import dabnn
from dabnn.errors import CheckpointError, ConfigError, DataError
from dabnn.models import DatasetInfo, ModelInfo, PSPNet
from dabnn.models.stored.folder import CONFIG, WEIGHTS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NAMES, WIDTHS = ["north", "south"], [5, 3]


def fpn():
    return smp.FPN("tu-test_resnet", encoder_weights=None, classes=5)


def converted(plain, **options):
    torch.manual_seed(0)
    model = dabnn.convert_to_dataset_aware(plain, dataset_names=NAMES, num_classes=WIDTHS, **options)
    for name in NAMES:  # each branch has statistics of its own
        with dabnn.use_dataset(model, name):
            model(torch.randn(4, 3, 64, 64))
    return model.eval()


def logits(model, name):
    with torch.no_grad(), dabnn.use_dataset(model, name):
        return model(IMAGES)


def with_momentum(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.25
    return model


MODELS = {
    "smp": (fpn, {}),
    "dabnn": (lambda: PSPNet("test_resnet", 5, channels=16), {}),
    "timm": (lambda: timm.create_model("test_resnet", num_classes=5), {}),
    "timm-arguments": (
        lambda: timm.create_model("resnet18", num_classes=5, in_chans=3, output_stride=8, act_layer="gelu"),
        {},
    ),
    "module-named-bns": (lambda: timm.create_model("res2net50_26w_4s", num_classes=5), {}),
    "momentum": (lambda: with_momentum(fpn()), {}),
    "classifiers": (fpn, {"skip": "*"}),
    "skip": (fpn, {"skip": "encoder.model.layer1.*"}),
    "affine": (fpn, {"share_affine": True}),
    "statistics": (fpn, {"share_statistics": True}),
    "layer-norms": (
        lambda: smp.Segformer("mit_b0", encoder_weights=None, classes=5),
        {"norm_types": [nn.LayerNorm, nn.BatchNorm2d]},
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_saved_model_comes_back_with_the_same_logits(kind, tmp_path):
    build, options = MODELS[kind]
    model = converted(build(), **options)
    before = torch.random.get_rng_state()
    dabnn.save_pretrained(model, tmp_path)
    again = dabnn.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert dabnn.dataset_names(again) == tuple(NAMES)
    assert not again.training
    for name in NAMES:
        assert torch.equal(logits(again, name), logits(model, name))
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    plain = dabnn.from_pretrained(tmp_path, dataset="south")
    with torch.no_grad():
        assert torch.equal(plain(IMAGES), logits(model, "south"))
    assert type(plain) is type(build())
    momenta = [[m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)] for net in (model, again)]
    assert momenta[0] == momenta[1]
    assert dabnn.save_pretrained(again, tmp_path / "again") == again.dabnn_info


def test_a_plain_model_holds_no_object_of_dabnn_and_is_preprocessed_alike(tmp_path):
    datasets = {name: DatasetInfo.numbered(width) for name, width in zip(NAMES, WIDTHS, strict=True)}
    dabnn.save_pretrained(converted(fpn()), tmp_path, ModelInfo(datasets, mean=(0.1, 0.2, 0.3)))
    model, plain = dabnn.from_pretrained(tmp_path), dabnn.from_pretrained(tmp_path, dataset="south")
    assert b"dabnn" not in pickle.dumps(plain)
    image = torch.rand(3, 32, 32)
    assert torch.equal(dabnn.preprocess(plain, image), dabnn.preprocess(model, image))


def test_datasets_that_came_or_went_since_loading_are_saved(tmp_path):
    dabnn.save_pretrained(converted(fpn()), tmp_path / "a")
    model = dabnn.from_pretrained(tmp_path / "a")
    dabnn.add_dataset(model, "east", num_classes=4)
    dabnn.remove_dataset(model, "north")
    info = dabnn.save_pretrained(model, tmp_path / "b")
    assert {name: len(d.classes) for name, d in info.datasets.items()} == {"south": 3, "east": 4}
    assert torch.equal(logits(dabnn.from_pretrained(tmp_path / "b"), "east"), logits(model.eval(), "east"))


def test_a_shared_classifier_is_saved_too(tmp_path):
    model = dabnn.convert_to_dataset_aware(fpn(), dataset_names=NAMES).eval()
    info = dabnn.save_pretrained(model, tmp_path)
    assert [len(d.classes) for d in info.datasets.values()] == [5, 5]
    assert torch.equal(logits(dabnn.from_pretrained(tmp_path), "south"), logits(model, "south"))


def test_half_precision_halves_the_parameters_and_keeps_the_statistics(tmp_path):
    model = converted(fpn())
    dabnn.save_pretrained(model, tmp_path / "full")
    dabnn.save_pretrained(model, tmp_path / "half", half=True)
    sizes = [(tmp_path / kind / WEIGHTS).stat().st_size for kind in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    again = dabnn.from_pretrained(tmp_path / "half")
    for (key, value), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert value.dtype == other.dtype
        assert torch.equal(value, other) if "running" in key else torch.allclose(value, other, atol=1e-3)


def test_what_is_known_of_a_model_travels_with_it(tmp_path):
    model = converted(fpn())
    palette = tuple((k, k, k) for k in range(3))
    datasets = {
        "north": DatasetInfo(tuple("abcde")),
        "south": DatasetInfo(tuple("xyz"), palette, {"miou": 12.3}, "val"),
    }
    info = ModelInfo(datasets, mean=(0.5,) * 3, std=(0.25,) * 3, licence="mine")
    dabnn.save_pretrained(model, tmp_path / "a", info)
    again = dabnn.from_pretrained(tmp_path / "a")
    assert again.dabnn_info.datasets == datasets
    assert again.dabnn_info.licence == "mine"
    dabnn.save_pretrained(again, tmp_path / "b")
    assert (tmp_path / "b" / CONFIG).read_text() == (tmp_path / "a" / CONFIG).read_text()
    wrong = replace(info, datasets={"north": datasets["north"]})
    with pytest.raises(ConfigError, match=r"the info has .* the model has"):
        dabnn.save_pretrained(model, tmp_path / "c", wrong)
    assert not (tmp_path / "c").exists()


def test_other_datasets_replace_those_of_the_weights(tmp_path):
    model = converted(fpn())
    dabnn.save_pretrained(model, tmp_path)
    again = dabnn.from_pretrained(tmp_path, dataset_names=["mine", "south", "north"], num_classes=[2, 3, 4])
    assert dabnn.dataset_names(again) == ("mine", "south", "north")
    assert torch.equal(logits(again, "south"), logits(model, "south"))  # known, with as many classes
    assert logits(again, "mine").shape[1] == 2
    assert logits(again, "north").shape[1] == 4
    shared = [list(dabnn.shared_parameters(m)) for m in (model, again)]
    assert all(torch.equal(a, b) for a, b in zip(*shared, strict=True))
    assert [len(d.classes) for d in again.dabnn_info.datasets.values()] == [2, 3, 4]
    for options in (
        {"dataset_names": ["a"]},
        {"num_classes": [1]},
        {"dataset_names": "aa", "num_classes": [1, 1]},
    ):
        with pytest.raises(ValueError, match="one number for each name"):
            dabnn.from_pretrained(tmp_path, **options)


def test_known_datasets_need_no_number_of_classes(tmp_path):
    model = converted(fpn())
    dabnn.save_pretrained(model, tmp_path)
    again = dabnn.from_pretrained(tmp_path, dataset_names=["south"])
    assert dabnn.dataset_names(again) == ("south",)
    assert torch.equal(logits(again, "south"), logits(model, "south"))
    with pytest.raises(
        ValueError, match=r"does not know \['east'\], only {'north': 5, 'south': 3}: give num_cl"
    ):
        dabnn.from_pretrained(tmp_path, dataset_names=["south", "east"])


def test_datasets_with_a_shared_classifier_are_replaced(tmp_path):
    model = dabnn.convert_to_dataset_aware(fpn(), dataset_names=NAMES).eval()
    shared = DatasetInfo(tuple("abcde"), metrics={"miou": 50.0})
    dabnn.save_pretrained(model, tmp_path, ModelInfo({"north": shared, "south": shared}))
    for number in ({}, {"num_classes": [5, 5]}):
        again = dabnn.from_pretrained(tmp_path, dataset_names=["east", "south"], **number)
        assert torch.equal(logits(again, "south"), logits(model, "south"))
        assert logits(again, "east").shape[1] == 5
        assert again.dabnn_info.datasets == {"east": DatasetInfo(tuple("abcde")), "south": shared}
    with pytest.raises(ValueError, match=r"share a classifier of 5 classes here: leave num_classes out"):
        dabnn.from_pretrained(tmp_path, dataset_names=["east"], num_classes=[3])


def test_values_too_large_for_half_precision_are_refused(tmp_path):
    model = converted(fpn())
    dabnn.save_pretrained(model, tmp_path / "a")
    before = (tmp_path / "a" / WEIGHTS).read_bytes()
    with torch.no_grad():
        model.encoder.model.conv1[0].weight[0, 0, 0, 0] = -1e5
    with pytest.raises(
        ConfigError, match=r"encoder.model.conv1.0.weight holds values up to 1e\+05, half precisi"
    ):
        dabnn.save_pretrained(model, tmp_path / "a", half=True)
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == before


@pytest.fixture
def folder(tmp_path):
    dabnn.save_pretrained(converted(fpn()), tmp_path / "model")
    return tmp_path / "model"


def change(folder, **values):
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_weights_that_were_cut_off_are_refused(folder, keep):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors was changed or cut off"):
        dabnn.from_pretrained(folder)


def test_weights_with_one_other_byte_are_refused(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="was changed or cut off"):
        dabnn.from_pretrained(folder)


def test_pickles_are_named_and_never_read(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin may run code .*weights as safetensors"):
        dabnn.from_pretrained(folder)


def test_a_newer_schema_asks_for_a_newer_dabnn(folder):
    change(folder, schema=99, version="9.9")
    with pytest.raises(CheckpointError, match=r"has format 99.*install dabnn 9.9 or newer"):
        dabnn.from_pretrained(folder)


def build(library="segmentation_models_pytorch", name="FPN", **arguments):
    return {"build": {"source": {"library": library, "name": name, "arguments": arguments}}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"library": "timm"}, "is not of a model of dabnn"),
        ({"datasets": {"a": {}}}, "is damaged: datasets.a.classes"),
        ({"datasets": {}}, "is damaged: datasets"),
        ({"datasets": {"a": {"classes": []}}}, "is damaged: datasets.a.classes"),
        ({"datasets": {"../a": {"classes": ["x"]}}}, "is damaged: datasets"),
        ({"datasets": {"a": {"classes": ["x"], "palette": [[1, 2, 3]] * 2}}}, "2 colours for 1 classes"),
        ({"schema": "1"}, "is damaged: schema"),
        ({"surprise": 1}, "is damaged: surprise"),
        (build(library="os"), "is damaged: build.source.library"),
    ],
)
def test_configs_that_are_wrong_say_where(folder, values, message):
    change(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        dabnn.from_pretrained(folder)


def test_a_config_that_is_no_text_is_damaged(folder):
    (folder / CONFIG).write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="is damaged"):
        dabnn.from_pretrained(folder)


@pytest.mark.parametrize(
    "values",
    [
        build(name="create_model"),
        build(library="dabnn", name="ModelInfo"),
        build(library="timm", name="hf-hub:evil/model"),
        build(library="timm", name="local-dir:../model"),
        build(library="timm", name="test_resnet", pretrained=True),
        build(library="timm", name="test_resnet", pretrained_cfg={"url": "x"}),
        build(library="timm", name="test_resnet", checkpoint_path="x"),
        build(library="dabnn", name="PSPNet", backbone="hf-hub:evil/model"),
        build(encoder_name="tu-hf-hub:evil/model"),
        build(encoder_name="tu-test_resnet", encoder_weights="imagenet"),
        build(encoder_name="tu-test_resnet", encoder_weights=True),
        build(encoder_name="tu-test_resnet", checkpoint_path="../weights.pth"),
        build(encoder_name="tu-test_resnet", pretrained_cfg_overlay={"url": "http://127.0.0.1:9/x.py"}),
        build(encoder_name="tu-test_resnet", cache_dir=".."),
        build(encoder_name="tu-test_resnet", activation="../x"),
        build(encoder_name="tu-test_resnet", encoder_depth=99),
    ],
    ids=lambda values: str(values["build"]["source"]["arguments"]),
)
def test_configs_of_strangers_load_nothing_but_the_weights_beside_them(folder, values, monkeypatch):
    def never(*arguments, **options):
        pytest.fail("a config made a library open a file or an address")

    change(folder, **values)
    for function in ("torch.load", "torch.hub.load_state_dict_from_url", "timm.models._hub.hf_hub_download"):
        monkeypatch.setattr(function, never)
    with pytest.raises(ConfigError):
        dabnn.from_pretrained(folder)


def test_weights_that_cannot_be_read_are_named(folder, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("dabnn.models.stored.folder.checksum", refused)
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read: .*Permission denied"):
        dabnn.from_pretrained(folder)


def test_weights_of_another_architecture_are_refused(folder):
    content = json.loads((folder / CONFIG).read_text())["build"]
    other = {"library": "timm", "name": "test_efficientnet", "arguments": {}}
    change(folder, build={**content, "source": other})
    with pytest.raises(ConfigError, match="test_efficientnet of the installed timm has no"):
        dabnn.from_pretrained(folder)
    change(folder, build={**content, "norms": content["norms"][1:]})
    with pytest.raises(CheckpointError, match="does not fit, nothing was loaded"):
        dabnn.from_pretrained(folder)


def test_no_json_and_no_config_are_told_apart(folder):
    (folder / CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match="is no JSON"):
        dabnn.from_pretrained(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"config.json is missing, there is model.safetensors"):
        dabnn.from_pretrained(folder)


@pytest.mark.parametrize("function", ["save_model", "to_json"])
def test_a_full_disk_while_saving_leaves_the_old_model(folder, monkeypatch, function):
    before = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"dabnn.models.stored.folder.{function}", full)
    with pytest.raises(CheckpointError, match="No space left"):
        dabnn.save_pretrained(converted(smp.Unet("tu-test_resnet", encoder_weights=None, classes=5)), folder)
    assert {name: (folder / name).read_bytes() for name in before} == before
    dabnn.from_pretrained(folder)


def test_dataset_names_that_are_no_file_names_are_refused(tmp_path):
    model = dabnn.convert_to_dataset_aware(fpn(), dataset_names=["../out", "b"], num_classes=[5, 3])
    with pytest.raises(ConfigError, match="cannot be described"):
        dabnn.save_pretrained(model, tmp_path / "a")


def test_images_of_every_kind_become_the_same_batch(tmp_path):
    model = converted(fpn())
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = ((tensor / 255 - mean) / std)[None]
    kinds = (tmp_path / "street.png", str(tmp_path / "street.png"), pixels, tensor, tensor / 255)
    for image in (*kinds, Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA")):
        torch.testing.assert_close(dabnn.preprocess(model, image), expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        torch.zeros(4, 4, 3),
        torch.zeros(3, 4, 4, dtype=torch.int64),
    ],
)
def test_images_of_no_known_kind_are_refused(image):
    with pytest.raises(DataError, match=r"must be \(.*got"):
        dabnn.preprocess(converted(fpn()), image)


def test_the_own_mean_and_deviation_are_used(folder):
    change(folder, mean=[0.5] * 3, std=[0.5] * 3)
    model = dabnn.from_pretrained(folder)
    assert dabnn.preprocess(model, torch.ones(3, 8, 8)).unique().tolist() == [1.0]
