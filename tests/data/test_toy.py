from __future__ import annotations

import pickle
import random
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d
from torch.utils.data import DataLoader
from torchvision.tv_tensors import Image, Mask

from dabnn.data import TOY_DATASETS, Sample, SegmentationDataset, ToyStreets
from dabnn.data.toy import CITIES, Category

EVERY_CITY = pytest.mark.parametrize("name", TOY_DATASETS)

# Percent of the pixels of 100 train images. The cities must not change once methods are compared on them.
SHARES = {
    "northport": {
        "road": 31.74,
        "sidewalk": 3.28,
        "building": 18.17,
        "fence": 0.86,
        "pole": 1.35,
        "sign": 0.80,
        "vegetation": 15.96,
        "sky": 9.85,
        "person": 1.59,
        "vehicle": 9.96,
        "bicycle": 0.60,
    },
    "oldtown": {
        "sky": 9.98,
        "building": 38.96,
        "pole": 2.44,
        "road": 22.37,
        "lane marking": 1.28,
        "pavement": 5.57,
        "tree": 7.21,
        "sign": 1.41,
        "car": 6.08,
        "pedestrian": 2.77,
        "cyclist": 1.95,
    },
    "sunvale": {
        "drivable": 37.45,
        "non-drivable": 7.55,
        "living things": 2.56,
        "vehicles": 9.86,
        "roadside objects": 4.73,
        "far objects": 24.95,
        "sky": 12.46,
    },
}


def same(left: Sample, right: Sample) -> bool:
    return torch.equal(left["image"], right["image"]) and torch.equal(left["mask"], right["mask"])


@cache
def pictures(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return 100 train images (100, 3, H, W) and masks (100, H, W)."""
    dataset = ToyStreets(name, length=100)
    samples = [dataset[index] for index in range(100)]
    return (
        np.stack([sample["image"].numpy() for sample in samples]),
        np.stack([sample["mask"].numpy() for sample in samples]),
    )


def shares(name: str) -> dict[str, float]:
    _, masks = pictures(name)
    counts = np.bincount(masks.ravel(), minlength=256)
    return {label: 100 * counts[k] / masks.size for k, label in enumerate(ToyStreets(name).classes)}


@EVERY_CITY
def test_a_sample_is_an_image_and_a_mask_of_the_size_asked_for(name: str) -> None:
    sample = ToyStreets(name, size=(48, 80))[3]
    assert isinstance(sample["image"], Image)
    assert isinstance(sample["mask"], Mask)
    assert sample["image"].shape == (3, 48, 80)
    assert sample["mask"].shape == (48, 80)
    assert sample["image"].dtype == sample["mask"].dtype == torch.uint8


@EVERY_CITY
def test_it_is_a_segmentation_dataset_with_a_label_space(name: str) -> None:
    dataset = ToyStreets(name)
    assert isinstance(dataset, SegmentationDataset)
    assert dataset.name == name
    assert dataset.ignore_index == 255
    assert len(set(dataset.classes)) == len(set(dataset.palette)) == len(dataset.classes)
    assert 60 <= len(dataset) <= 200


@EVERY_CITY
def test_a_sample_is_the_same_every_time_whatever_the_global_random_state(name: str) -> None:
    first = ToyStreets(name)[5]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert same(ToyStreets(name)[5], first)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == before


# Python 3.12 on warns about any fork beside threads; torch starts its workers that way.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_and_pickled_copies_give_the_same_samples() -> None:
    dataset = ToyStreets("oldtown", length=4)
    loaded = list(DataLoader(dataset, batch_size=None, num_workers=2))
    copy = pickle.loads(pickle.dumps(dataset))
    for index, sample in enumerate(loaded):
        assert same(sample, dataset[index])
        assert same(copy[index], dataset[index])


def test_no_scene_is_in_two_datasets_splits_seeds_or_indices() -> None:
    sources = [
        ToyStreets(name, split, length=10, seed=seed)
        for name in TOY_DATASETS
        for split in ("train", "val")
        for seed in (0, 1)
    ]
    images = {dataset[index]["image"].numpy().tobytes() for dataset in sources for index in range(10)}
    assert len(images) == 10 * len(sources)


@EVERY_CITY
def test_a_longer_dataset_starts_with_the_same_scenes(name: str) -> None:
    assert same(ToyStreets(name, "val", length=500)[7], ToyStreets(name, "val")[7])


@EVERY_CITY
def test_every_class_occurs_and_no_other_id(name: str) -> None:
    _, masks = pictures(name)
    found = set(np.unique(masks).tolist())
    assert found - {255} == set(range(len(ToyStreets(name).classes)))


def test_the_label_spaces_differ_and_the_third_merges_what_the_others_tell_apart() -> None:
    north, old, sun = (ToyStreets(name) for name in TOY_DATASETS)
    assert [len(dataset.classes) for dataset in (north, old, sun)] == [11, 11, 7]
    assert set(north.classes) - set(old.classes)
    assert set(old.classes) - set(north.classes)
    labels = {name: CITIES[name].labels.labels for name in TOY_DATASETS}
    for one, other in ((Category.BUILDING, Category.VEGETATION), (Category.POLE, Category.SIGN)):
        assert labels["sunvale"][one] == labels["sunvale"][other]
        assert labels["northport"][one] != labels["northport"][other]
        assert labels["oldtown"][one] != labels["oldtown"][other]
    assert Category.BICYCLE not in labels["sunvale"]
    assert Category.BICYCLE in labels["northport"]


def test_the_class_frequencies_differ() -> None:
    north, old, sun = (shares(name) for name in TOY_DATASETS)
    assert north["vegetation"] > 1.5 * old["tree"]
    assert north["vehicle"] > 1.5 * old["car"]
    assert old["building"] > 1.5 * north["building"]
    assert sun["vehicles"] > 1.5 * old["car"]


@EVERY_CITY
def test_the_cities_stay_as_they_are(name: str) -> None:
    assert shares(name) == pytest.approx(SHARES[name], abs=0.1)


def test_the_pictures_differ_in_brightness_colour_and_noise() -> None:
    statistics = {}
    for name in TOY_DATASETS:
        images, _ = pictures(name)
        pixels = images.astype(float)
        warmth = pixels[:, 0].mean() / pixels[:, 2].mean()
        grain = np.abs(np.diff(pixels[:, :, :10], axis=3)).mean() / pixels.mean()
        statistics[name] = (pixels.mean(), warmth, grain)
    brightness, warmth, grain = zip(
        *(statistics[name] for name in ("oldtown", "northport", "sunvale")), strict=True
    )
    assert brightness[0] + 15 < brightness[1]
    assert brightness[1] + 15 < brightness[2]
    assert warmth[1] < 1.02 < 1.1 < min(warmth[0], warmth[2])
    assert grain[0] > 1.3 * max(grain[1:])


@EVERY_CITY
def test_another_size_shows_the_same_scene(name: str) -> None:
    agreement, distance = [], []
    for index in range(8):
        small, large = ToyStreets(name, size=(64, 128))[index], ToyStreets(name, size=(192, 384))[index]
        agreement.append((large["mask"][1::3, 1::3] == small["mask"]).float().mean().item())
        blocks = (avg_pool2d(large["image"].float(), 24), avg_pool2d(small["image"].float(), 8))
        distance.append((blocks[0] - blocks[1]).abs().mean().item())
    assert min(agreement) > 0.93
    assert max(distance) < 4


def test_a_sample_cannot_be_changed_through_another() -> None:
    dataset = ToyStreets("northport")
    dataset[0]["image"].zero_()
    dataset[0]["mask"].zero_()
    assert dataset[0]["image"].any()
    assert dataset[0]["mask"].any()


def test_iteration_ends_and_out_of_range_indices_raise() -> None:
    dataset = ToyStreets("sunvale", length=3)
    assert len(list(dataset)) == len(dataset) == 3
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"index {index} is out of range for 'sunvale' with 3 samples"):
            dataset[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nowhere"}, "unknown toy dataset 'nowhere'; choose one of northport, oldtown, sunvale"),
        ({"split": "test"}, "toy dataset 'oldtown' has no split 'test'; choose one of train, val"),
        ({"size": (8, 128)}, r"size must be \(height, width\) in whole pixels, each >= 16, got \(8, 128\)"),
        ({"size": (64, 100.5)}, r"whole pixels"),
        ({"size": (64,)}, r"size must be \(height, width\)"),
        ({"size": 64}, r"size must be \(height, width\)"),
        ({"length": 0}, "length must be at least 1, or None for the city's own, got 0"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_bad_arguments_raise_with_what_is_allowed(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ToyStreets(**({"name": "oldtown"} | arguments))  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(TOY_DATASETS),
    split=st.sampled_from(("train", "val")),
    size=st.tuples(st.integers(16, 120), st.integers(16, 120)),
    index=st.integers(0, 10**12),
    seed=st.integers(0, 2**70),
)
def test_any_size_index_and_seed_give_a_labelled_picture(
    name: str, split: str, size: tuple[int, int], index: int, seed: int
) -> None:
    dataset = ToyStreets(name, split, size=size, length=10**12 + 1, seed=seed)
    sample = dataset[index]
    assert sample["image"].shape == (3, *size)
    assert sample["mask"].shape == size
    labelled = sample["mask"][sample["mask"] != 255]
    assert len(labelled) > 0
    assert labelled.max() < len(dataset.classes)
    assert sample["image"].float().std() > 1
    assert same(dataset[index], sample)
