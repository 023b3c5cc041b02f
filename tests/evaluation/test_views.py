from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dabnn.evaluation import predict_logits, predict_scales, predict_windows
from dabnn.evaluation.views import PAPER_SCALES, choose_views


class Pixelwise(nn.Module):
    """Logits of a pixel depend on the pixel alone."""

    def forward(self, x: Tensor) -> Tensor:
        self.sizes = [*getattr(self, "sizes", []), tuple(x.shape[-2:])]
        return torch.cat([x, x.square()], dim=1)


@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0, 0.9),
)
def test_windows_cover_every_pixel_of_any_image(size, window, overlap) -> None:
    images = torch.rand(2, 3, *size)
    model = Pixelwise()
    actual = predict_windows(model, images, window=window, overlap=overlap, divisor=1)
    torch.testing.assert_close(actual, Pixelwise()(images))
    assert all(h <= window[0] and w <= window[1] for h, w in model.sizes)


def test_windows_overlap_by_the_share_that_was_asked_for() -> None:
    model = Pixelwise()
    predict_windows(model, torch.rand(1, 3, 8, 20), window=(8, 8), overlap=0.5, divisor=1)
    assert len(model.sizes) == 4  # 0, 4, 8, 12
    model = Pixelwise()
    predict_windows(model, torch.rand(1, 3, 8, 20), window=(8, 8), overlap=0, divisor=1)
    assert len(model.sizes) == 3


def test_overlapping_windows_are_averaged() -> None:
    class Count(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return torch.full((len(x), 1, *x.shape[-2:]), float(self.calls))

    actual = predict_windows(Count(), torch.rand(1, 3, 4, 6), window=(4, 4), overlap=0.5, divisor=1)
    assert actual[0, 0, 0].tolist() == [1, 1, 1.5, 1.5, 2, 2]


def test_views_are_combined_as_they_were_chosen() -> None:
    images = torch.rand(1, 3, 33, 47)
    assert choose_views([1.0]) is predict_logits
    assert choose_views(window=(8, 8)).func is predict_windows
    chosen = choose_views([0.5, 1.0], flip=True, window=(16, 16))(Pixelwise(), images)
    windows = partial(predict_windows, window=(16, 16))
    expected = predict_scales(Pixelwise(), images, scales=[0.5, 1.0], flip=True, predict=windows)
    assert torch.equal(chosen, expected)
    assert not torch.equal(chosen, choose_views([0.5, 1.0], window=(16, 16))(Pixelwise(), images))


def test_one_scale_is_a_plain_prediction() -> None:
    images = torch.rand(1, 3, 33, 47)
    expected = predict_logits(Pixelwise(), images).log_softmax(1)
    torch.testing.assert_close(predict_scales(Pixelwise(), images, scales=[1.0]), expected)
    torch.testing.assert_close(predict_scales(Pixelwise(), images, scales=[1.0], flip=True), expected)


def test_probabilities_of_all_views_are_averaged() -> None:
    images = torch.rand(1, 3, 32, 64)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    views = []
    for size in ((16, 32), (32, 64)):
        view = F.interpolate(images, size, mode="bilinear", antialias=True) if size != (32, 64) else images
        for flipped in (False, True):
            logits = conv(view.flip(-1)).flip(-1) if flipped else conv(view)
            views.append(F.interpolate(logits, (32, 64), mode="bilinear").softmax(1))
    unpadded = partial(predict_logits, divisor=1)
    actual = predict_scales(conv, images, scales=(0.5, 1.0), flip=True, predict=unpadded).exp()
    torch.testing.assert_close(actual, torch.stack(views).mean(0))
    torch.testing.assert_close(actual.sum(1), torch.ones(1, 32, 64))


def test_the_scales_of_the_paper_cost_as_much_as_its_table_says() -> None:
    assert sum(scale**2 for scale in PAPER_SCALES) == pytest.approx(1730.7 / 512.8, abs=1e-3)  # Table 5


def test_windows_at_several_scales() -> None:
    images = torch.rand(1, 3, 32, 64)

    def windows(model: nn.Module, view: Tensor) -> Tensor:
        return predict_windows(model, view, window=(16, 16), divisor=1)

    expected = predict_scales(Pixelwise(), images, scales=(1.0, 2.0))
    torch.testing.assert_close(
        predict_scales(Pixelwise(), images, scales=(1.0, 2.0), predict=windows), expected
    )


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0)])
def test_scales_must_be_positive(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="scales must be positive"):
        predict_scales(Pixelwise(), torch.rand(1, 3, 8, 8), scales=scales)


@pytest.mark.parametrize("options", [{"window": (0, 4)}, {"window": (4, 4), "overlap": 1.0}])
def test_windows_must_be_positive(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="positive window"):
        predict_windows(Pixelwise(), torch.rand(1, 3, 8, 8), **options)  # type: ignore[arg-type]
