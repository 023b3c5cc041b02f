from __future__ import annotations

import numpy as np
import pytest

from dabnn.deploy.overlay import LEAST_WIDTH, colorize, overlay, with_legend

PALETTE = [(255, 0, 0), (0, 0, 255)]
IDS = np.array([[0, 1], [255, 0]])


def test_every_class_gets_its_colour_and_ignored_pixels_are_black() -> None:
    assert colorize(IDS, PALETTE).tolist() == [[[255, 0, 0], [0, 0, 255]], [[0, 0, 0], [255, 0, 0]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_any_integer_type_will_do(dtype: type) -> None:
    picture = colorize(IDS.astype(dtype), PALETTE)

    assert picture.dtype == np.uint8
    assert picture[0, 1].tolist() == [0, 0, 255]


def test_an_overlay_blends_and_leaves_ignored_pixels_alone() -> None:
    image = np.full((2, 2, 3), 100, dtype=np.uint8)

    blended = overlay(image, IDS, PALETTE, alpha=0.5)

    assert blended[0, 0].tolist() == [178, 50, 50]
    assert blended[1, 0].tolist() == [100, 100, 100]


def test_alpha_goes_from_the_image_to_the_colours() -> None:
    image = np.full((2, 2, 3), 100, dtype=np.uint8)

    assert (overlay(image, IDS, PALETTE, alpha=0) == image).all()
    assert overlay(image, IDS, PALETTE, alpha=1)[0, 0].tolist() == [255, 0, 0]


def test_sizes_that_differ_and_wrong_alphas_are_errors() -> None:
    image = np.zeros((3, 2, 3), dtype=np.uint8)

    with pytest.raises(ValueError, match="do not lie over each other"):
        overlay(image, IDS, PALETTE)
    with pytest.raises(ValueError, match="alpha"):
        overlay(image[:2], IDS, PALETTE, alpha=1.5)


def test_the_legend_lies_below_the_picture_and_shows_every_colour() -> None:
    picture = np.full((20, 400, 3), 200, dtype=np.uint8)

    labelled = with_legend(picture, ["road", "sky"], PALETTE)

    assert (labelled[:20] == picture).all()
    strip = {tuple(pixel) for pixel in labelled[20:].reshape(-1, 3).tolist()}
    assert set(PALETTE) <= strip


def test_a_long_legend_takes_several_lines_and_stays_inside_a_small_picture() -> None:
    picture = np.zeros((10, 32, 3), dtype=np.uint8)
    one = with_legend(picture, ["a"], PALETTE[:1])
    many = with_legend(picture, ["roadside objects"] * 11, [(9, 9, 9)] * 11)

    assert one.shape[1] == many.shape[1] == LEAST_WIDTH
    assert many.shape[0] > one.shape[0] + 50
    assert (many[10:, -1] == 255).all()
