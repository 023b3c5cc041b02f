"""Cars, vans, trucks and rickshaws: one body plan, four sets of proportions."""

from __future__ import annotations

import math
import random
from functools import cache
from typing import NamedTuple

import numpy as np

from dabnn.data.toy.camera import Array
from dabnn.data.toy.shapes import Face, Prop, Texture, box, disc, shade, vary
from dabnn.data.toy.style import Category, Style

Point = tuple[float, float, float]

LAYERS = ("top", "cabin", "glass", "hull", "trim", "wheel", "plate", "tail", "head")
"""Parts in the order in which they are drawn."""
FLOOR, INSET, BONNET_DROP, OVERLAP = 0.28, 0.08, 0.12, 0.15
"""In metres: floor height, inset of the roof, fall of the bonnet, reach of the cabin into the hull."""


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
    scale = rng.uniform(0.92, 1.08)
    angle = math.atan(slope) + rng.uniform(-0.06, 0.06) + (math.pi if oncoming else 0.0)
    points, parts = _template(kind)
    points = points * np.float32(scale)
    along, across = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    turned = np.empty_like(points)
    turned[:, 0] = x + points[:, 0] * along + points[:, 2] * across
    turned[:, 1] = points[:, 1]
    turned[:, 2] = z - points[:, 0] * across + points[:, 2] * along
    return Prop(z, turned, _paint(rng, style, kind, parts))


def _paint(rng: random.Random, style: Style, kind: int, parts: tuple[tuple[int, str], ...]) -> list[Face]:
    paint = vary(rng, rng.choice(style.bodywork))
    lamps = Texture.GLOW if rng.random() < 0.8 else Texture.PLAIN
    canopy = shade(vary(rng, rng.choice(style.bodywork)), 0.7) if kind == 3 else paint
    colors = {
        "hull": paint,
        "cabin": canopy,
        "top": shade(canopy, 1.05),
        "glass": (46, 54, 62),
        "trim": (30, 30, 32),
        "wheel": (24, 24, 26),
        "plate": (205, 200, 180),
        "tail": (196, 30, 24),
        "head": (255, 246, 214),
    }
    made = {}
    for corners, part in set(parts):
        texture = lamps if part in ("tail", "head") else Texture.PLAIN
        made[corners, part] = Face(corners, Category.VEHICLE, colors[part], texture, solid=True)
    return [made[key] for key in parts]


@cache
def _template(kind: int) -> tuple[Array, tuple[tuple[int, str], ...]]:
    """Return the points, (N, 3), of a body around its middle, and the corners and part of its faces."""
    body = BODIES[kind]
    center = np.array((0.0, body.height / 2, body.length / 2))
    points: list[Point] = []
    parts = []
    polygons = _sides(body) + _ends(body) + _tops(body)
    for polygon, part in sorted(polygons, key=lambda item: LAYERS.index(item[1])):
        corners = np.array(polygon)
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        outward = float(normal @ (corners.mean(axis=0) - center)) > 0
        points += polygon if outward else polygon[::-1]
        parts.append((len(polygon), part))
    shift = np.array((0, 0, body.length / 2), dtype=np.float32)
    return np.array(points, dtype=np.float32) - shift, tuple(parts)


def _sides(body: Body) -> list[tuple[list[Point], str]]:
    half = body.width / 2
    (rear, front), (roof_rear, roof_front) = body.cabin, body.roof
    rise, trim = body.height - body.belt, (1 - body.glass) / 2 * (roof_front - roof_rear)
    bonnet, base = body.belt - BONNET_DROP, body.belt - OVERLAP
    sill, head = body.belt + 0.08 * rise, body.belt + 0.85 * rise
    end = body.length
    hull = [(0.0, FLOOR), (end, FLOOR), (end, bonnet), (front, body.belt), (0.0, body.belt)]
    cabin = [(rear, base), (front, base), (roof_front, body.height), (roof_rear, body.height)]
    glass = [
        (roof_rear + 0.6 * trim, sill),
        (front - 0.35, sill),
        (roof_front - 0.05, head),
        (roof_rear + trim, head),
    ]
    flat = [(hull, "hull", half), (cabin, "cabin", half - INSET), (glass, "glass", half - INSET)]
    flat += [(disc(z * end, body.wheel, body.wheel, 8), "wheel", half) for z in (0.19, 0.8)]
    return [([(side * x, y, z) for z, y in shape], part) for side in (-1, 1) for shape, part, x in flat]


def _ends(body: Body) -> list[tuple[list[Point], str]]:
    half = body.width / 2
    polygons: list[tuple[list[Point], str]] = []
    for lamp in ("tail", "head"):
        rear = lamp == "tail"
        z = 0.0 if rear else body.length
        base, top = body.cabin[not rear], body.roof[not rear]
        belt = body.belt - (0.0 if rear else BONNET_DROP)
        polygons.append((_window(body, base, top, 1.0, -OVERLAP, body.height - body.belt), "cabin"))
        if not rear or body.glass > 0.5:
            rise = body.height - body.belt
            polygons.append((_window(body, base, top, 0.84, 0.12 * rise, 0.88 * rise), "glass"))
        for part, (left, low, right, high) in (
            ("hull", (-half, FLOOR, half, belt)),
            ("trim", (-half, FLOOR, half, 0.46)),
            ("wheel", (-half + 0.02, 0.0, -half + 0.26, FLOOR)),
            ("wheel", (half - 0.26, 0.0, half - 0.02, FLOOR)),
            ("plate", (-0.25, 0.5, 0.25, 0.62)),
            (lamp, (-half, belt - 0.25, -half + 0.3, belt - 0.05)),
            (lamp, (half - 0.3, belt - 0.25, half, belt - 0.05)),
        ):
            polygons.append(([(x, y, z) for x, y in box(left, low, right, high)], part))
    return polygons


def _window(body: Body, base: float, top: float, width: float, low: float, high: float) -> list[Point]:
    """Return a part of the cabin's sloping end between two heights above the belt."""

    def at(x: float, up: float) -> Point:
        share = up / (body.height - body.belt)
        return ((body.width / 2 - INSET * share) * width * x, body.belt + up, base + share * (top - base))

    return [at(-1, low), at(1, low), at(1, high), at(-1, high)]


def _tops(body: Body) -> list[tuple[list[Point], str]]:
    half, inner = body.width / 2, body.width / 2 - INSET
    bonnet = body.belt - BONNET_DROP
    return [
        (_slab(inner, (body.roof[0], body.height), (body.roof[1], body.height)), "top"),
        (_slab(half, (body.cabin[1], body.belt), (body.length, bonnet)), "top"),
    ]


def _slab(half: float, rear: tuple[float, float], front: tuple[float, float]) -> list[Point]:
    """Return a face as wide as the vehicle between two positions (z, y)."""
    return [(x, y, z) for x, (z, y) in ((-half, rear), (half, rear), (half, front), (-half, front))]
