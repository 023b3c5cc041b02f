"""Persons, bicycles and cyclists."""

from __future__ import annotations

import math
import random

import numpy as np

from dabnn.data.toy.camera import Array
from dabnn.data.toy.shapes import Face, Outline, Prop, box, disc, shade, upright, vary
from dabnn.data.toy.style import Category, Style

SKIN = ((224, 182, 150), (150, 108, 80), (96, 66, 50))
WHEEL = 0.33


def person(rng: random.Random, style: Style, x: float, z: float) -> Prop:
    """Return a person standing or walking at ``x``, ``z``."""
    height = rng.uniform(1.5, 1.9) if rng.random() < 0.85 else rng.uniform(1.0, 1.3)
    stride = rng.uniform(0.0, 0.14)
    swing = rng.uniform(-0.06, 0.06)
    coat, trousers = (vary(rng, rng.choice(style.clothes)) for _ in range(2))
    skin = rng.choice(SKIN)
    skirt = rng.random() < 0.25
    hem = 0.2 if skirt else 0.44
    shapes = [
        ([(-0.08 - stride, 0.0), (-0.02 - stride, 0.0), (0.0, 0.48), (-0.10, 0.48)], trousers),
        ([(0.02 + stride, 0.0), (0.08 + stride, 0.0), (0.10, 0.48), (0.0, 0.48)], shade(trousers, 0.85)),
        ([(-0.19 + swing, 0.42), (-0.14 + swing, 0.42), (-0.09, 0.80), (-0.14, 0.80)], shade(coat, 0.8)),
        ([(0.14 - swing, 0.42), (0.19 - swing, 0.42), (0.14, 0.80), (0.09, 0.80)], shade(coat, 0.8)),
        ([(-0.12, hem), (0.12, hem), (0.13, 0.82), (-0.13, 0.82)], coat),
        (disc(0.0, 0.91, 0.075, 8), skin),
        (disc(0.0, 0.92, 0.08, 8)[:5], shade(rng.choice(style.clothes), 0.6)),
    ]
    points = upright([point for shape, _ in shapes for point in shape], x, z, height)
    return Prop(z, points, [Face(len(shape), Category.PERSON, color) for shape, color in shapes])


def bicycle(rng: random.Random, style: Style, x: float, z: float) -> Prop:
    """Return a bicycle without a rider at ``x``, ``z``."""
    turn = rng.uniform(0.3, 1.5)
    points, faces = _bicycle(rng, style, x, z, turn)
    return Prop(z, points, faces)


def cyclist(rng: random.Random, style: Style, x: float, z: float) -> Prop:
    """Return a person on a bicycle at ``x``, ``z``; the nearer to the camera's axis, the more from behind."""
    turn = rng.uniform(0.35, 0.9) if rng.random() < 0.7 else rng.uniform(0.9, 1.5)
    points, faces = _bicycle(rng, style, x, z, turn)
    lean = 0.25 * math.sin(turn)
    coat, trousers = (vary(rng, rng.choice(style.clothes)) for _ in range(2))
    shapes = [
        ([(-0.14, 0.35), (-0.04, 0.35), (0.06, 0.98), (-0.14, 0.98)], trousers),
        ([(0.04, 0.25), (0.14, 0.25), (0.14, 0.98), (-0.02, 0.98)], shade(trousers, 0.85)),
        ([(-0.18, 0.90), (0.16, 0.90), (0.20 + lean, 1.45), (-0.16 + lean, 1.45)], coat),
        (
            [(0.06 + lean, 1.35), (0.14 + lean, 1.4), (0.22 + 2 * lean, 1.0), (0.14 + 2 * lean, 1.0)],
            shade(coat, 0.8),
        ),
        (disc(0.02 + 1.2 * lean, 1.6, 0.13, 8), rng.choice(SKIN)),
        (disc(0.02 + 1.2 * lean, 1.61, 0.14, 8)[:5], vary(rng, rng.choice(style.clothes))),
    ]
    body = upright([point for shape, _ in shapes for point in shape], x, z - 0.02)
    faces = faces + [Face(len(shape), Category.RIDER, color) for shape, color in shapes]
    return Prop(z, np.concatenate((points, body)), faces)


def _bicycle(rng: random.Random, style: Style, x: float, z: float, turn: float) -> tuple[Array, list[Face]]:
    """Return a bicycle as seen ``turn`` radians from behind: pi / 2 is from the side."""
    frame = shade(rng.choice(style.clothes), 0.9)
    shapes = [
        (_ring(-0.52), (30, 30, 32)),
        (_ring(0.52), (30, 30, 32)),
        ([(-0.54, 0.30), (-0.50, 0.30), (-0.10, 0.86), (-0.18, 0.86)], frame),
        ([(-0.06, 0.28), (0.02, 0.26), (0.42, 0.82), (0.36, 0.86)], frame),
        ([(-0.18, 0.70), (0.38, 0.74), (0.38, 0.82), (-0.18, 0.78)], frame),
        ([(0.50, 0.33), (0.56, 0.33), (0.42, 1.04), (0.36, 1.04)], frame),
        (box(-0.28, 0.86, -0.04, 0.93), (30, 30, 32)),
        (box(0.24, 1.0, 0.48, 1.06), (40, 40, 42)),
    ]
    flat = np.asarray([point for shape, _ in shapes for point in shape], dtype=np.float32)
    points = np.empty((len(flat), 3), dtype=np.float32)
    points[:, 0] = x + flat[:, 0] * math.sin(turn)
    points[:, 1] = flat[:, 1]
    points[:, 2] = z + flat[:, 0] * math.cos(turn)
    return points, [Face(len(shape), Category.BICYCLE, color) for shape, color in shapes]


def _ring(x: float) -> Outline:
    """Return a wheel as one polygon: the rim outwards, then back inside it, so that one sees through."""
    outer, inner = disc(x, WHEEL, WHEEL, 10), disc(x, WHEEL, WHEEL - 0.1, 10)
    return [*outer, outer[0], inner[0], *reversed(inner)]
