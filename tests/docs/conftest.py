"""What the code blocks of the pages need and a reader has: each fixture returns names for a block.

Files are written into the folder that the block runs in.
"""

from __future__ import annotations

import copy
import sys
from functools import partial
from pathlib import Path

import hub_server
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm.layers
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.models import WeightsEnum

import dabnn
from dabnn.data import ToyStreets, load_space
from dabnn.models import DatasetInfo, ModelInfo

CLASSES = {"cityscapes": 19, "bdd100k": 19, "camvid": 11}


@pytest.fixture
def _reader(tmp_path, monkeypatch):
    """A folder with a photo, small toy cities, and models that are registered for one page only."""
    monkeypatch.setattr(dabnn.data, "ToyStreets", partial(ToyStreets, length=8))
    registry = sys.modules[dabnn.register_model.__module__]
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((128, 64), 90).convert("RGB").save("street.jpg")


@pytest.fixture
def images():
    return {"images": torch.randn(2, 3, 64, 64)}


@pytest.fixture
def model():
    """A converted network for three datasets."""
    plain = smp.PSPNet("resnet18", encoder_weights=None)
    names, classes = list(CLASSES), list(CLASSES.values())
    converted = dabnn.convert_to_dataset_aware(plain, dataset_names=names, num_classes=classes)
    return {"dabnn": dabnn, "torch": torch, "model": converted}


@pytest.fixture
def loaders(model):
    """The network, and two batches of each dataset to train and to evaluate it."""
    a, b = batches(CLASSES["cityscapes"]), batches(CLASSES["camvid"])
    mixed = [{"image": x, "mask": y, "dataset": ["cityscapes", "camvid"]} for x, y in b]
    both = {"cityscapes": a, "camvid": b}
    names = {"loader_a": a, "loader_b": b, "loaders": both, "mixed_loader": mixed}
    return model | names | {"val_a": a, "val_b": b}


@pytest.fixture
def training_loop(model):
    """The network, and what a loop of one's own has for one step."""
    return model | {
        "optimizer": torch.optim.SGD(model["model"].parameters(), lr=0.01),
        "criterion": nn.CrossEntropyLoss(),
        "batches": {name: batches(number)[0] for name, number in CLASSES.items()},
    }


@pytest.fixture
def new_city(model, images):
    """The network and a copy, and images of a dataset that it does not know yet."""
    held_out = {name: batches(number) for name, number in (CLASSES | {"kitti": 19}).items()}
    more = {"loader": batches(19), "held_out_loaders": held_out, "ids": ["camvid", "kitti"]}
    return model | images | more | {"other_model": copy.deepcopy(model["model"])}


class Head(nn.Module):
    """A classifier that is neither linear nor a convolution."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.ReLU(), nn.Conv2d(width, classes, 1))


class Net(nn.Module):
    """A network of no library."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.decoder = nn.ModuleDict({"out": classifier})


@pytest.fixture
def own_network():
    return {"net": Net(nn.Conv2d(4, 19, 1))}


@pytest.fixture
def own_classifier():
    return {"net": Net(Head(4, 19)), "MyHead": Head}


@pytest.fixture
def timm_model():
    return {"dabnn": dabnn, "timm": timm, "model": timm.create_model("test_resnet")}


@pytest.fixture
def dsbn_checkpoint():
    """A checkpoint of DSBN in ``dsbn.pth``, and the network that it is of."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    aware = dabnn.convert_to_dataset_aware(copy.deepcopy(plain), 2)
    torch.save({"model": aware.state_dict()}, "dsbn.pth")
    return {"dabnn": dabnn, "torch": torch, "plain_network": plain}


@pytest.fixture
def folder_dataset():
    """Images and labels in the layout of the page."""
    write_pairs("path/to/root/images/train", "path/to/root/labels/train")
    Path("path/to/root/classes.json").write_text(
        '{"classes": ["road", "car"], "palette": [[128, 64, 128], [0, 0, 142]], "ignore_index": 255}'
    )
    return {}


@pytest.fixture
def camvid():
    """Images and labels in CamVid's layout."""
    write_pairs("data/CamVid/train", "data/CamVid/trainannot")
    return {}


@pytest.fixture
def cityscapes(images):
    """A dataset with the classes of Cityscapes, and a network for them."""
    scenes = ToyStreets("northport", length=2)
    scenes.classes = load_space("cityscapes").classes
    network = smp.FPN("tu-test_resnet", encoder_weights=None, classes=19)
    return images | {"cityscapes": scenes, "model": network}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The repository ``me/my-model``, on a server of our own."""
    plain = smp.FPN("tu-test_resnet", encoder_weights=None, classes=11)
    network = dabnn.convert_to_dataset_aware(plain, dataset_names=["camvid", "idd"], num_classes=[11, 7])
    spaces = {"camvid": load_space("camvid"), "idd": load_space("idd_lite")}
    info = ModelInfo({name: DatasetInfo(space.classes, size=(64, 96)) for name, space in spaces.items()})
    with hub_server.in_place_of_the_hub(tmp_path / "cache", monkeypatch):
        dabnn.push_to_hub(network, "me/my-model", info)
        yield {}


@pytest.fixture
def downloads(monkeypatch):
    """Weights of torchvision without a download."""
    state = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *_, **__: state)
    return {}


def batches(classes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return two batches of two images and their masks."""
    return [(torch.randn(2, 3, 64, 64), torch.randint(classes, (2, 64, 64))) for _ in range(2)]


def write_pairs(images: str, labels: str) -> None:
    """Write eight images and labels of two classes."""
    for folder, mode in ((images, "RGB"), (labels, "L")):
        Path(folder).mkdir(parents=True)
        for index in range(8):
            pixels = np.random.default_rng(index).integers(2, size=(64, 96), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(f"{folder}/{index}.png")
