"""Cars, vans, trucks and rickshaws: one body plan, four sets of proportions."""

from __future__ import annotations

import math
import random
from functools import cache
from typing import NamedTuple

import numpy as np

from dabnn.data.toy.camera import Array
from dabnn.data.toy.shapes import Face, Prop, Texture, disc, shade, vary
from dabnn.data.toy.style import Category, Style

Point = tuple[float, float, float]


class Body(NamedTuple):
    """Proportions of a vehicle in metres; lengths run from the rear, z = 0, to the front.

    Attributes:
        length: Length.
        width: Width.
        height: Height of the roof.
        belt: Height of the hull, below the windows.
        cabin: Where the cabin starts and ends at the belt.
        roof: Where the roof starts and ends.
        wheel: Radius of the wheels.
        glass: Share of the cabin's sides that is glass; 0 for a closed load.
    """

    length: float
    width: float
    height: float
    belt: float
    cabin: tuple[float, float]
    roof: tuple[float, float]
    wheel: float
    glass: float


BODIES = (
    Body(4.3, 1.8, 1.48, 0.92, (0.1, 3.3), (0.7, 2.4), 0.33, 0.75),
    Body(4.9, 1.95, 2.05, 1.1, (0.0, 4.3), (0.1, 3.6), 0.36, 0.6),
    Body(8.5, 2.5, 3.3, 1.2, (0.0, 8.4), (0.0, 8.3), 0.5, 0.35),
    Body(2.7, 1.35, 1.8, 0.9, (0.1, 2.4), (0.2, 1.9), 0.25, 0.85),
)


def vehicle(rng: random.Random, style: Style, x: float, z: float, slope: float, oncoming: bool) -> Prop:
    """Return a vehicle whose middle is at ``x``, ``z`` on a road of the given slope."""
    kind = rng.choices(range(len(BODIES)), style.vehicles)[0]
    body = BODIES[kind]
    scale = rng.uniform(0.92, 1.08)
    angle = math.atan(slope) + rng.uniform(-0.06, 0.06) + (math.pi if oncoming else 0.0)
    points, parts = _template(kind)
    points = points * np.float32(scale)
    along, across = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    turned = np.empty_like(points)
    turned[:, 0] = x + points[:, 0] * along + points[:, 2] * across
    turned[:, 1] = points[:, 1]
    turned[:, 2] = z - points[:, 0] * across + points[:, 2] * along
    if turned[:, 2].min() < 1.5:
        return Prop(0.0, turned[:0], [])
    return Prop(z, turned, _paint(rng, style, kind, parts))


def length(kind: int = 0) -> float:
    """Return the length in metres of a kind of vehicle."""
    return BODIES[kind].length


def _paint(rng: random.Random, style: Style, kind: int, parts: tuple[tuple[int, str], ...]) -> list[Face]:
    paint = vary(rng, rng.choice(style.bodywork))
    lamps = Texture.GLOW if rng.random() < 0.8 else Texture.PLAIN
    canopy = shade(vary(rng, rng.choice(style.bodywork)), 0.7) if kind == 3 else paint
    looks = {
        "hull": (paint, Texture.PLAIN),
        "cabin": (canopy, Texture.PLAIN),
        "top": (shade(canopy, 1.05), Texture.PLAIN),
        "glass": ((46, 54, 62), Texture.PLAIN),
        "trim": ((30, 30, 32), Texture.PLAIN),
        "wheel": ((24, 24, 26), Texture.PLAIN),
        "plate": ((205, 200, 180), Texture.PLAIN),
        "tail": ((196, 30, 24), lamps),
        "head": ((255, 246, 214), lamps),
    }
    return [
        Face(corners, Category.VEHICLE, looks[part][0], looks[part][1], solid=True) for corners, part in parts
    ]


@cache
def _template(kind: int) -> tuple[Array, tuple[tuple[int, str], ...]]:
    """Return the points, (N, 3), of a body around its middle, and the corners and part of its faces."""
    body = BODIES[kind]
    polygons = _sides(body) + _ends(body) + _tops(body)
    center = np.array((0.0, body.height / 2, body.length / 2))
    points: list[Point] = []
    parts = []
    for polygon, part in sorted(polygons, key=lambda item: _LAYERS.index(item[1])):
        corners = np.array(polygon)
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        outward = float(normal @ (corners.mean(axis=0) - center)) > 0
        points += polygon if outward else polygon[::-1]
        parts.append((len(polygon), part))
    return np.array(points, dtype=np.float32) - np.array((0, 0, body.length / 2), dtype=np.float32), tuple(parts)


_LAYERS = ("top", "cabin", "glass", "hull", "trim", "wheel", "plate", "tail", "head")


def _sides(body: Body) -> list[tuple[list[Point], str]]:
    half, inset = body.width / 2, 0.08
    polygons: list[tuple[list[Point], str]] = []
    (rear, front), (roof_rear, roof_front) = body.cabin, body.roof
    span, rise = roof_front - roof_rear, body.height - body.belt
    for side in (-1, 1):
        low, high = side * half, side * (half - inset)
        hull = [(0.0, 0.28), (body.length, 0.28), (body.length, body.belt - 0.12), (front, body.belt), (0.0, body.belt)]
        cabin = [(rear, body.belt), (front, body.belt), (roof_front, body.height), (roof_rear, body.height)]
        sill, head = body.belt + 0.08 * rise, body.belt + 0.85 * rise
        trim = (1 - body.glass) / 2 * span
        glass = [
            (roof_rear + trim * 0.6, sill),
            (front - 0.35, sill),
            (roof_front - 0.05, head),
            (roof_rear + trim, head),
        ]
        polygons.append(([(low, y, z) for z, y in hull], "hull"))
        polygons.append(([(high, y, z) for z, y in cabin], "cabin"))
        polygons.append(([(high, y, z) for z, y in glass], "glass"))
        for z in (0.19 * body.length, 0.8 * body.length):
            polygons.append(([(low, y, w) for w, y in disc(z, body.wheel, body.wheel, 8)], "wheel"))
    return polygons


def _ends(body: Body) -> list[tuple[list[Point], str]]:
    half, inset = body.width / 2, 0.08
    polygons: list[tuple[list[Point], str]] = []
    for z, base, top, lamp in (
        (0.0, body.cabin[0], body.roof[0], "tail"),
        (body.length, body.cabin[1], body.roof[1], "head"),
    ):
        belt = body.belt - (0.12 if lamp == "head" else 0.0)

        def at(x: float, up: float, base: float = base, top: float = top) -> Point:
            share = (up - body.belt) / (body.height - body.belt)
            return ((half - inset * share) * x, up, base + share * (top - base))

        rise = body.height - body.belt
        sill, head = body.belt + 0.12 * rise, body.belt + 0.88 * rise
        polygons.append(([at(-1, body.belt), at(1, body.belt), at(1, body.height), at(-1, body.height)], "cabin"))
        if lamp == "head" or body.glass > 0.5:
            polygons.append(([at(-0.85, sill), at(0.85, sill), at(0.82, head), at(-0.82, head)], "glass"))
        for part, left, low, right, high in (
            ("hull", -half, 0.3, half, belt),
            ("trim", -half, 0.3, half, 0.46),
            ("wheel", -half + 0.02, 0.0, -half + 0.26, 0.3),
            ("wheel", half - 0.26, 0.0, half - 0.02, 0.3),
            ("plate", -0.25, 0.5, 0.25, 0.62),
            (lamp, -half, belt - 0.25, -half + 0.3, belt - 0.05),
            (lamp, half - 0.3, belt - 0.25, half, belt - 0.05),
        ):
            polygons.append(([(left, low, z), (right, low, z), (right, high, z), (left, high, z)], part))
    return polygons


def _tops(body: Body) -> list[tuple[list[Point], str]]:
    half, inner = body.width / 2, body.width / 2 - 0.08
    rear, front = body.roof
    roof = [(-inner, body.height, rear), (inner, body.height, rear), (inner, body.height, front), (-inner, body.height, front)]
    start, low = body.cabin[1], body.belt - 0.12
    bonnet = [(-half, body.belt, start), (half, body.belt, start), (half, low, body.length), (-half, low, body.length)]
    return [(roof, "top"), (bonnet, "top")]
