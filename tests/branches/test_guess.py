from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from toy_models import ConvNet, assert_equal, aware, image_batch

import dabnn
from dabnn.data import TOY_DATASETS, SeededLoader, ToyStreets
from dabnn.errors import DataError, NoBatchNormFoundError, UnknownDatasetError


@pytest.fixture(scope="module")
def cities() -> dict[str, SeededLoader]:
    return {name: SeededLoader(ToyStreets(name, "val", length=16), 16) for name in TOY_DATASETS}


@pytest.fixture(scope="module")
def model(cities: dict[str, SeededLoader]) -> nn.Module:
    """A random network whose branches hold the statistics of the toy cities."""
    torch.manual_seed(0)
    model = dabnn.convert_to_dataset_aware(ConvNet(), dataset_names=TOY_DATASETS)
    for name in TOY_DATASETS:
        loader = SeededLoader(ToyStreets(name, "train", length=48), 16)
        dabnn.recalibrate_batch_norm(model, loader, dataset=name)
    return model.eval()


def test_cities_are_recognised(model, cities) -> None:
    right = 0
    for name, loader in cities.items():
        guess = dabnn.guess_dataset(model, next(iter(loader))["image"])
        assert guess.names == TOY_DATASETS
        assert guess.scores.shape == (16, 3)
        assert guess.together == name
        right += sum(dataset == name for dataset in guess.datasets)
    assert right > 0.8 * 48


def test_the_misfit_is_the_divergence_of_normal_distributions(model) -> None:
    images = image_batch(2)
    scores = dabnn.guess_dataset(model, images, layers=1).scores
    x = model.conv1(images)
    for i, norm in enumerate(model.bn1.bns):
        expected = [
            torch.distributions.kl_divergence(
                torch.distributions.Normal(
                    x[k].flatten(1).mean(1), (x[k].flatten(1).var(1, correction=0) + norm.eps).sqrt()
                ),
                torch.distributions.Normal(norm.running_mean, (norm.running_var + norm.eps).sqrt()),
            ).mean()
            for k in range(2)
        ]
        torch.testing.assert_close(scores[:, i], torch.stack(expected))


def test_images_that_fit_no_dataset_are_turned_away(model, cities) -> None:
    thresholds = dabnn.guess_thresholds(model, cities, keep=0.9)
    noise = torch.rand(8, 3, 64, 128)
    assert set(dabnn.guess_dataset(model, noise).datasets) <= set(TOY_DATASETS)
    guess = dabnn.guess_dataset(model, noise, thresholds=thresholds)
    assert set(guess.datasets) == {None}
    assert guess.together is None
    kept = 0
    for name, loader in cities.items():
        scores = dabnn.guess_dataset(model, next(iter(loader))["image"]).scores
        kept += (scores[:, TOY_DATASETS.index(name)] <= thresholds[name]).sum()
    assert 0.85 * 48 <= kept <= 0.95 * 48


def test_thresholds_are_of_the_norms_that_are_looked_at(model, cities) -> None:
    thresholds = dabnn.guess_thresholds(model, cities, keep=1, layers=1)
    for name, loader in cities.items():
        index = TOY_DATASETS.index(name)
        scores = [dabnn.guess_dataset(model, batch["image"], layers=1).scores[:, index] for batch in loader]
        assert thresholds[name] == pytest.approx(torch.cat(scores).max().item())
    assert thresholds != dabnn.guess_thresholds(model, cities, keep=1, layers=2)


def test_the_forward_ends_at_the_last_norm_looked_at(model) -> None:
    calls = []
    handle = model.classifier.register_forward_pre_hook(lambda *_: calls.append(1))
    dabnn.guess_dataset(model, image_batch(), layers=2)
    handle.remove()
    assert calls == []


def test_the_model_is_not_changed(model) -> None:
    model.train()
    model.conv1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    dabnn.guess_dataset(model, image_batch())
    assert_equal(dict(model.state_dict()), dict(before))
    assert [m.training for m in model.modules()] == modes
    assert dabnn.active_dataset(model) is None
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.eval()


def test_images_of_any_size_are_taken() -> None:
    class Picky(ConvNet):
        def forward(self, x):
            if x.shape[-2] % 32 or x.shape[-1] % 32:
                raise RuntimeError(f"wrong shape {tuple(x.shape)}")
            return super().forward(x)

    model, images = aware(Picky()), torch.rand(2, 3, 45, 70)
    scores = dabnn.guess_dataset(model, images).scores
    assert_equal(scores, dabnn.guess_dataset(model, images[..., :32, :64]).scores)


def test_wrong_arguments(model) -> None:
    with pytest.raises(DataError, match="no image"):
        dabnn.guess_dataset(model, image_batch(0))
    with pytest.raises(ValueError, match="layers must be positive"):
        dabnn.guess_dataset(model, image_batch(), layers=0)
    with pytest.raises(UnknownDatasetError, match="'x'"):
        dabnn.guess_dataset(model, image_batch(), thresholds={"x": 1.0})
    with pytest.raises(ValueError, match="keep must be in"):
        dabnn.guess_thresholds(model, {}, keep=0)
    with pytest.raises(DataError, match="'oldtown' is empty"):
        dabnn.guess_thresholds(model, {"oldtown": []})
    shared = aware(num_classes=[5, 3], n=2, classifier="classifier", skip="*")
    with pytest.raises(NoBatchNormFoundError):
        dabnn.guess_dataset(shared, image_batch())
