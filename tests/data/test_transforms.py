from __future__ import annotations

import pytest
import torch
from torchvision.tv_tensors import Image, Mask

from dabnn.data import RandomScale, Sample, eval_transform, train_transform

MEAN, STD = (0.5, 0.25, 0.75), (0.2, 0.3, 0.4)


def sample(height: int = 48, width: int = 80) -> Sample:
    """Return an image whose red channel is 40 times the class id, and its mask."""
    ids = torch.arange(width).div(width / 4, rounding_mode="floor").expand(height, width)
    pixels = torch.stack([40 * ids, torch.full_like(ids, 64), torch.full_like(ids, 200)])
    return {"image": Image(pixels.to(torch.uint8)), "mask": Mask(ids.to(torch.uint8))}


def test_train_transform_gives_crops_of_normal_tensors() -> None:
    transform = train_transform((32, 64), mean=MEAN, std=STD)

    for _ in range(20):
        result = transform(sample())
        assert {type(value) for value in result.values()} == {torch.Tensor}
        assert (result["image"].shape, result["image"].dtype) == ((3, 32, 64), torch.float32)
        assert (result["mask"].shape, result["mask"].dtype) == ((32, 64), torch.int64)
        assert set(result["mask"].unique().tolist()) <= {0, 1, 2, 3, 255}


def test_short_image_is_padded_with_the_mean_and_ignored() -> None:
    transform = train_transform((100, 160), scale=(0.5, 0.5), mean=MEAN, std=STD, ignore_index=99)

    result = transform(sample())
    padding = result["mask"] == 99

    assert padding.sum() == 100 * 160 - 24 * 40
    assert result["image"][:, padding].abs().max() < 0.01


def test_image_at_least_as_large_as_the_crop_is_not_padded() -> None:
    result = train_transform((48, 80), scale=(1.0, 1.0), flip=0.0, mean=MEAN, std=STD)(sample())

    assert torch.equal(result["mask"], sample()["mask"].long())
    assert torch.equal(result["image"], eval_transform(mean=MEAN, std=STD)(sample())["image"])


def test_image_and_mask_move_together() -> None:
    """The red channel tells the class id after augmentation too, but for pixels at class borders."""
    transform = train_transform((48, 80), mean=(0.0,) * 3, std=(1.0,) * 3)

    for _ in range(50):
        result = transform(sample())
        kept = result["mask"] != 255
        wrong = ((result["image"][0] * 255 / 40).round() != result["mask"]) & kept
        assert wrong.sum() <= 0.05 * kept.sum()


def test_jitter_changes_the_colours_within_its_range_and_never_the_mask() -> None:
    options = {"scale": (1.0, 1.0), "flip": 0.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    plain = train_transform((48, 80), **options)(sample())
    transform = train_transform((48, 80), jitter=0.2, **options)

    means = []
    for _ in range(20):
        result = transform(sample())
        assert torch.equal(result["mask"], plain["mask"])
        means.append((result["image"].mean() / plain["image"].mean()).item())
    assert len(set(means)) > 10
    assert 0.8 - 0.05 < min(means) < max(means) < 1.2 + 0.05


def test_flip_mirrors_image_and_mask() -> None:
    flipped = train_transform((48, 80), scale=(1.0, 1.0), flip=1.0, mean=MEAN, std=STD)(sample())
    plain = eval_transform(mean=MEAN, std=STD)(sample())

    assert torch.equal(flipped["image"], plain["image"].flip(-1))
    assert torch.equal(flipped["mask"], plain["mask"].flip(-1))


def test_scale_is_one_uniform_factor_of_the_original_size() -> None:
    transform = RandomScale((0.5, 2.1))
    factors = []
    for _ in range(300):
        height, width = transform(sample(100, 200))["mask"].shape
        assert abs(width - 2 * height) <= 1
        factors.append(height / 100)

    assert min(factors) == pytest.approx(0.5, abs=0.05)
    assert max(factors) == pytest.approx(2.1, abs=0.05)
    assert sum(factors) / len(factors) == pytest.approx(1.3, abs=0.1)


def test_scaling_shifts_the_mask_as_little_as_the_image() -> None:
    """Masks rounded down instead of to the nearest pixel lie half a pixel off the image."""
    ramp = torch.arange(200, dtype=torch.uint8).expand(8, 200)
    scaled = RandomScale((1.01, 1.01))({"image": Image(ramp.expand(3, 8, 200)), "mask": Mask(ramp)})

    offset = (scaled["mask"].float() - scaled["image"][0].float()).mean()
    assert abs(offset) < 0.1


def test_draws_come_from_the_torch_generator() -> None:
    transform = train_transform((32, 64), mean=MEAN, std=STD)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(transform(sample())["image"])

    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_eval_transform_normalises_and_keeps_the_size() -> None:
    result = eval_transform(mean=MEAN, std=STD)(sample())

    expected = (sample()["image"] / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    torch.testing.assert_close(result["image"], expected.as_subclass(torch.Tensor))
    assert torch.equal(result["mask"], sample()["mask"].long())
    assert {type(value) for value in result.values()} == {torch.Tensor}


@pytest.mark.parametrize("scale", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_impossible_scale(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 < low <= high"):
        train_transform((32, 64), scale=scale, mean=MEAN, std=STD)
