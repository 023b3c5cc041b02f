"""Show class ids as colours, alone or over the image, and say which colour is which class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from dabnn.data import Color

Pixels = npt.NDArray[np.uint8]

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
FONT_SIZE, SWATCH, GAP = 12, 12, 6
LEAST_WIDTH = 240


def colorize(ids: npt.NDArray[np.integer], palette: Sequence[Color]) -> Pixels:
    """Return a picture of class ids; pixels that are no class, such as ignored ones, are black.

    Args:
        ids: Class ids (H, W), any integer type.
        palette: One RGB colour in [0, 255] per class.

    Returns:
        RGB pixels (H, W, 3).
    """
    colors = np.array([*palette, BLACK], dtype=np.uint8)
    return colors[np.where(_labelled(ids, palette), ids, len(palette))]


def some_colors(count: int) -> list[Color]:
    """Return as many different RGB colours in [0, 255], for classes that have none."""
    hues = colormaps["hsv"](np.linspace(0, 1, count, endpoint=False), bytes=True)
    return [(int(red), int(green), int(blue)) for red, green, blue, _ in hues]


def overlay(
    image: Pixels, ids: npt.NDArray[np.integer], palette: Sequence[Color], alpha: float = 0.5
) -> Pixels:
    """Blend the colours of class ids over an image; pixels that are no class show the image alone.

    Args:
        image: RGB pixels (H, W, 3).
        ids: Class ids (H, W), any integer type.
        palette: One RGB colour in [0, 255] per class.
        alpha: Share of the colours, in [0, 1].

    Returns:
        RGB pixels (H, W, 3).

    Raises:
        ValueError: If the sizes differ or ``alpha`` is out of range.
    """
    if image.shape != (*ids.shape, 3):
        raise ValueError(f"an image {image.shape} and ids {ids.shape} do not lie over each other")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    share = np.where(_labelled(ids, palette), alpha, 0.0)[..., None]
    blended = (1 - share) * image + share * colorize(ids, palette)
    return blended.round().astype(np.uint8)


def with_legend(picture: Pixels, classes: Sequence[str], palette: Sequence[Color]) -> Pixels:
    """Return a picture with a strip below it that names the colour of every class.

    Args:
        picture: RGB pixels (H, W, 3).
        classes: Class names.
        palette: One RGB colour in [0, 255] per class.

    Returns:
        RGB pixels; a picture narrower than 240 pixels gets a white margin at its right.
    """
    font = ImageFont.load_default(FONT_SIZE)
    height, width = picture.shape[:2]
    places, strip = _layout([font.getlength(name) for name in classes], max(width, LEAST_WIDTH))
    canvas = Image.new("RGB", (max(width, LEAST_WIDTH), height + strip), WHITE)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for (x, y), name, color in zip(places, classes, palette, strict=True):
        top = height + y
        draw.rectangle((x, top, x + SWATCH, top + SWATCH), fill=tuple(color), outline=BLACK)
        draw.text((x + SWATCH + GAP, top + SWATCH / 2), name, fill=BLACK, font=font, anchor="lm")
    return np.asarray(canvas)


def _layout(lengths: Sequence[float], width: int) -> tuple[list[tuple[int, int]], int]:
    """Place swatches with texts of the given lengths in lines; also return the height of all lines."""
    places, x, y = [], GAP, GAP
    for length in lengths:
        right = SWATCH + 3 * GAP + round(length)
        if x > GAP and x + right - 2 * GAP > width:
            x, y = GAP, y + SWATCH + GAP
        places.append((x, y))
        x += right
    return places, y + SWATCH + GAP


def _labelled(ids: npt.NDArray[np.integer], palette: Sequence[Color]) -> npt.NDArray[np.bool_]:
    return (ids >= 0) & (ids < len(palette))
