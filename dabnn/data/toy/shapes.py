"""Flat faces in the world, the only thing the renderer draws, and the simplest ways to make them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from typing import NamedTuple

import numpy as np

from dabnn.data.base import Color
from dabnn.data.toy.camera import Array
from dabnn.data.toy.style import Category

Outline = list[tuple[float, float]]


class Texture(IntEnum):
    """The pattern on a face."""

    PLAIN = 0
    FACADE = 1
    LEAVES = 2
    BARS = 3
    GLOW = 4


class Face(NamedTuple):
    """A flat polygon with ``corners`` consecutive points of its prop.

    Attributes:
        corners: Number of points.
        category: What it is.
        color: Colour in full light, RGB in [0, 255].
        texture: Pattern on it.
        accent: Second colour of the pattern: windows, gaps.
        period: Width and height in metres of one element of the pattern.
        solid: Part of a closed body, hence seen from the outside only (its points turn counterclockwise
            as seen from there).
    """

    corners: int
    category: Category
    color: tuple[float, ...]
    texture: Texture = Texture.PLAIN
    accent: tuple[float, ...] = (0, 0, 0)
    period: tuple[float, ...] = (1.0, 1.0)
    solid: bool = False


class Prop(NamedTuple):
    """Faces drawn one after the other, and the depth in metres by which props hide each other."""

    depth: float
    points: Array
    faces: Sequence[Face]


def upright(outline: Outline, x: float, z: float, scale: float = 1.0) -> Array:
    """Stand flat points (right, up), times ``scale``, at ``x``, ``z`` so that they face the camera."""
    flat = np.asarray(outline, dtype=np.float32) * np.float32(scale)
    points = np.empty((len(flat), 3), dtype=np.float32)
    points[:, 0] = flat[:, 0] + x
    points[:, 1] = flat[:, 1]
    points[:, 2] = z
    return points


def box(left: float, bottom: float, right: float, top: float) -> Outline:
    """Return the corners of a rectangle."""
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def disc(x: float, y: float, radius: float, corners: int = 10, turn: float = 0.0) -> Outline:
    """Return the corners of a regular polygon."""
    return [(x + radius * right, y + radius * up) for right, up in _circle(corners, turn)]


def blob(rng: random.Random, x: float, y: float, width: float, height: float, corners: int) -> Outline:
    """Return a ragged ellipse with the given half axes."""
    points = []
    for right, up in _circle(corners):
        reach = 0.75 + 0.35 * rng.random()
        points.append((x + reach * width * right, y + reach * height * up))
    return points


def shade(color: tuple[float, ...], factor: float) -> tuple[float, float, float]:
    """Return a colour made darker or lighter."""
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def vary(rng: random.Random, color: Color, amount: float = 0.12) -> tuple[float, float, float]:
    """Return a colour with its brightness, and a little its hue, changed at random."""
    level = 1 - amount + 2 * amount * rng.random()
    hue = 0.08 * rng.random() - 0.04
    red, green, blue = color
    return (red * level * (1 + hue), green * level, blue * level * (1 - hue))


@cache
def _circle(corners: int, turn: float = 0.0) -> Outline:
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]
