"""What stands along a street: trees and hedges, lamps, traffic lights, signs and advertising boards."""

from __future__ import annotations

import math
import random

import numpy as np

from dabnn.data.toy.shapes import Face, Outline, Prop, Texture, blob, box, disc, shade, upright, vary
from dabnn.data.toy.style import Category, Style

Paint = tuple[float, float, float]
Parts = list[tuple[Outline, Face]]

SIGNS: tuple[tuple[int, float, tuple[int, int, int], tuple[int, int, int]], ...] = (
    (3, math.pi / 2, (190, 36, 36), (230, 226, 216)),
    (3, -math.pi / 2, (190, 36, 36), (230, 226, 216)),
    (10, 0.0, (190, 36, 36), (226, 222, 214)),
    (10, 0.0, (36, 70, 160), (60, 100, 190)),
    (4, math.pi / 4, (40, 76, 160), (220, 222, 224)),
    (8, math.pi / 8, (180, 30, 34), (196, 50, 50)),
    (4, 0.0, (220, 190, 60), (236, 206, 80)),
)
"""Corners, turn, rim and face colour of traffic signs."""


def tree(rng: random.Random, style: Style, x: float, z: float) -> Prop:
    """Return a tree at ``x``, ``z``."""
    height = rng.uniform(*style.tree_height)
    leaf = vary(rng, rng.choice(style.foliage), 0.2)
    shape = rng.choices((_round_tree, _conical_tree, _palm), style.tree_shapes)[0]
    return _stand(shape(rng, height, leaf), x, z)


def bush(rng: random.Random, style: Style, x: float, z: float) -> Prop:
    """Return a bush at ``x``, ``z``."""
    leaf = vary(rng, rng.choice(style.foliage), 0.2)
    width, height = rng.uniform(0.6, 1.8), rng.uniform(0.5, 1.2)
    return _stand(_crown(rng, 0.0, height * 0.8, width, height, leaf, 2), x, z)


def lamp(rng: random.Random, style: Style, x: float, z: float, toward: int) -> Prop:
    """Return a street lamp, traffic light or bare pole whose arm points to the right (1) or left (-1)."""
    metal = vary(rng, rng.choice(style.metal))
    height, half = rng.uniform(5.0, 8.0), rng.uniform(0.06, 0.12)
    kind = rng.random()
    parts: Parts = []
    if kind < 0.25:
        height = rng.uniform(2.6, 3.4)
        parts += [_part(box(-half, 0, half, height), Category.POLE, metal)]
        parts += _traffic_light(rng, 0.0, height - 0.2)
    else:
        shaft = [(-half, 0.0), (half, 0.0), (0.7 * half, height), (-0.7 * half, height)]
        parts += [_part(shaft, Category.POLE, metal)]
        if kind < 0.85:
            reach = toward * rng.uniform(1.0, 2.4)
            arm = [(0.0, height - 0.12), (reach, height + 0.18), (reach, height + 0.3), (0.0, height)]
            bulb = box(0.75 * reach, height + 0.05, reach, height + 0.2)
            parts += [_part(arm, Category.POLE, metal)]
            parts += [(bulb, Face(4, Category.POLE, (255, 226, 160), Texture.GLOW))]
        else:
            parts += [_part(box(-0.9, height - 0.7, 0.9, height - 0.58), Category.POLE, metal)]
    return _stand(parts, x, z)


def sign(rng: random.Random, style: Style, x: float, z: float) -> Prop:
    """Return a traffic sign on its pole at ``x``, ``z``."""
    metal = vary(rng, rng.choice(style.metal))
    corners, turn, rim, face = rng.choice(SIGNS)
    height, radius = rng.uniform(2.0, 2.7), rng.uniform(0.36, 0.5)
    parts = [_part(box(-0.05, 0, 0.05, height), Category.POLE, metal)]
    parts += [_part(disc(0, height, radius, corners, turn), Category.SIGN, vary(rng, rim))]
    parts += [_part(disc(0, height, 0.68 * radius, corners, turn), Category.SIGN, vary(rng, face))]
    if rng.random() < 0.5:
        parts += [_part(box(-0.12, height - 0.08, 0.12, height + 0.08), Category.SIGN, (40, 40, 44))]
    if rng.random() < 0.3:
        low = height - radius - 0.45
        parts += [_part(box(-0.3, low, 0.3, low + 0.35), Category.SIGN, vary(rng, (220, 220, 214)))]
    return _stand(parts, x, z)


def board(rng: random.Random, style: Style, x: float, z: float) -> Prop:
    """Return an advertising board on two legs at ``x``, ``z``."""
    metal = vary(rng, rng.choice(style.metal))
    half, low, high = rng.uniform(0.8, 2.2), rng.uniform(2.0, 3.5), rng.uniform(1.2, 2.2)
    ground, ink = (vary(rng, rng.choice(style.bodywork + style.facades)) for _ in range(2))
    legs = [box(x - 0.07, 0, x + 0.07, low) for x in (-0.7 * half, 0.7 * half)]
    parts = [_part(leg, Category.POLE, metal) for leg in legs]
    parts += [_part(box(-half, low, half, low + high), Category.SIGN, ground)]
    parts += [_part(box(-half * 0.8, low + 0.55 * high, half * 0.5, low + 0.85 * high), Category.SIGN, ink)]
    parts += [_part(box(-half * 0.8, low + 0.15 * high, half * 0.8, low + 0.32 * high), Category.SIGN, ink)]
    return _stand(parts, x, z)


def _traffic_light(rng: random.Random, x: float, low: float) -> Parts:
    lit = rng.randrange(3)
    parts = [_part(box(x - 0.2, low, x + 0.2, low + 1.0), Category.SIGN, (26, 28, 28))]
    for k, color in enumerate(((60, 220, 120), (250, 190, 50), (250, 50, 40))):
        texture = Texture.GLOW if k == lit else Texture.PLAIN
        spot = disc(x, low + 0.2 + 0.3 * k, 0.13, 8)
        parts.append((spot, Face(8, Category.SIGN, color if k == lit else shade(color, 0.2), texture)))
    return parts


def _round_tree(rng: random.Random, height: float, leaf: Paint) -> Parts:
    width = height * rng.uniform(0.24, 0.38)
    trunk = _part(_trunk(0.03 * height, 0.6 * height), Category.VEGETATION, vary(rng, (74, 60, 48)))
    return [trunk, *_crown(rng, 0.0, 0.64 * height, width, 0.36 * height, leaf, 4)]


def _conical_tree(rng: random.Random, height: float, leaf: Paint) -> Parts:
    parts = [_part(_trunk(0.02 * height, 0.3 * height), Category.VEGETATION, (66, 54, 44))]
    for k in range(3):
        low, wide = height * (0.12 + 0.24 * k), height * (0.22 - 0.05 * k) * rng.uniform(0.9, 1.1)
        tip, sag = (0.0, low + 0.42 * height), (-0.3 * wide, low - 0.03 * height)
        tier = [(-wide, low), sag, (0.4 * wide, low), (wide, low), tip]
        parts.append(_leaves(tier, shade(leaf, 0.8 + 0.12 * k)))
    return parts


def _palm(rng: random.Random, height: float, leaf: Paint) -> Parts:
    bend = rng.uniform(-0.12, 0.12) * height
    trunk = [(-0.16, 0.0), (0.16, 0.0), (bend + 0.1, height), (bend - 0.1, height)]
    parts = [_part(trunk, Category.VEGETATION, vary(rng, (128, 108, 82)))]
    for k in range(9):
        angle = math.pi * (k / 8 * 1.3 - 0.15) + rng.uniform(-0.1, 0.1)
        reach = height * rng.uniform(0.24, 0.32)
        x, y = math.cos(angle), math.sin(angle)
        tip = (bend + reach * x, height + reach * (0.6 * y - 0.45))
        knee, knee_height = bend + 0.55 * reach * x, height + 0.55 * reach * y
        lower = [(bend, height - 0.25), (knee, knee_height - 0.35), tip]
        frond = [*lower, (knee, knee_height + 0.2), (bend, height + 0.25)]
        parts.append(_leaves(frond, shade(leaf, rng.uniform(0.75, 1.15))))
    return parts


def _crown(
    rng: random.Random, x: float, y: float, width: float, height: float, leaf: Paint, clumps: int
) -> Parts:
    parts = [_leaves(blob(rng, x, y, width, height, 14), shade(leaf, 0.75))]
    for k in range(clumps):
        dx, dy = rng.uniform(-0.5, 0.5) * width, (rng.uniform(-0.3, 0.5) + 0.1 * k / clumps) * height
        clump = blob(rng, x + dx, y + dy, 0.5 * width, 0.45 * height, 9)
        parts.append(_leaves(clump, shade(leaf, rng.uniform(0.85, 1.3))))
    return parts


def _trunk(half: float, height: float) -> Outline:
    return [(-half, 0), (half, 0), (0.6 * half, height), (-0.6 * half, height)]


def _part(shape: Outline, category: Category, color: Paint) -> tuple[Outline, Face]:
    return shape, Face(len(shape), category, color)


def _leaves(shape: Outline, color: Paint) -> tuple[Outline, Face]:
    return shape, Face(len(shape), Category.VEGETATION, color, Texture.LEAVES)


def _stand(parts: Parts, x: float, z: float) -> Prop:
    points = upright([point for shape, _ in parts for point in shape], x, z)
    return Prop(z, np.ascontiguousarray(points), [face for _, face in parts])
