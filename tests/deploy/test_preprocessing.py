"""From an image to the input of a model: its size, its orientation, its depth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional as F

import dabnn
from dabnn.conversion.attached import INFO
from dabnn.errors import ConfigError, DataError, NotDatasetAwareError, UnknownDatasetError
from dabnn.models import DatasetInfo, ModelInfo


@pytest.fixture
def model():
    """A model of which it is known that images of "small" were 24 high and 48 wide."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model = dabnn.convert_to_dataset_aware(plain, dataset_names=["small", "any"])
    small, other = DatasetInfo(("x",) * 4, size=(24, 48)), DatasetInfo(("x",) * 4)
    vars(model)[INFO] = ModelInfo({"small": small, "any": other}, mean=(0.5,) * 3, std=(0.5,) * 3)
    return model


def test_images_are_scaled_in_proportion_to_the_height_that_the_dataset_had(model):
    image = torch.rand(3, 96, 160)
    batch = dabnn.preprocess(model, image, dataset="small")
    assert batch.shape == (1, 3, 24, 40)
    expected = F.resize(image, [24, 40], antialias=True)
    torch.testing.assert_close(batch[0], (expected - 0.5) / 0.5)
    assert torch.equal(dabnn.preprocess(model, image, dataset=0), batch)


def test_small_images_are_enlarged_and_images_of_that_height_stay_as_they_are(model):
    assert dabnn.preprocess(model, torch.rand(3, 12, 10), dataset="small").shape == (1, 3, 24, 20)
    image = torch.rand(3, 24, 999)
    assert torch.equal(dabnn.preprocess(model, image, dataset="small"), dabnn.preprocess(model, image))


def test_the_size_is_kept_without_a_dataset_and_where_it_had_no_one_size(model):
    image = torch.rand(3, 96, 160)
    dabnn.add_dataset(model, "new", init_from="any")
    for options in ({}, {"dataset": "any"}, {"dataset": "new"}):
        assert dabnn.preprocess(model, image, **options).shape == (1, 3, 96, 160)


def test_datasets_that_are_not_known_are_refused(model):
    image = torch.rand(3, 8, 8)
    with pytest.raises(UnknownDatasetError, match="small"):
        dabnn.preprocess(model, image, dataset="nowhere")
    with pytest.raises(NotDatasetAwareError):
        dabnn.preprocess(dabnn.extract_dataset(model, "small"), image, dataset="small")
    del vars(model)[INFO]
    with pytest.raises(ConfigError, match=r"not known: load the model with dabnn.from_pretrained"):
        dabnn.preprocess(model, image, dataset="small")


def test_photos_are_turned_upright_whether_they_are_files_or_open_images(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    pixels = np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "side.png", exif=exif)
    with Image.open(tmp_path / "side.png") as image:
        batch = dabnn.preprocess(model, image)
    assert batch.shape == (1, 3, 40, 20)
    assert torch.equal(batch, dabnn.preprocess(model, tmp_path / "side.png"))


def test_images_of_16_bits_and_damaged_ones_are_refused_whether_files_or_open_images(model, tmp_path):
    Image.fromarray(np.full((32, 32), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        tmp_path / "whole.png"
    )
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    for name, message in (("deep.png", "more than 8 bits a channel"), ("torn.png", "cannot be decoded")):
        with pytest.raises(DataError, match=message):
            dabnn.preprocess(model, tmp_path / name)
        with Image.open(tmp_path / name) as image, pytest.raises(DataError, match=f"the image.*{message}"):
            dabnn.preprocess(model, image)
