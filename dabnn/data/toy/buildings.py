"""What lines a street: houses, green lots and fences, and the skyline behind."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from dabnn.data.toy.camera import NEAR, Array, Camera
from dabnn.data.toy.roadside import bush, tree
from dabnn.data.toy.shapes import Face, Prop, Texture, shade, vary
from dabnn.data.toy.street import Street
from dabnn.data.toy.style import Category, Style

FAR = 120.0
"""Depth in metres where the rows of lots end."""
SKYLINE = 240.0
"""Depth in metres of the skyline."""
BLOCK_DEPTH = 14.0
"""Extent of a house away from the street in metres."""

AWNINGS, FRONT_FENCES = 0.25, 0.15
"""Share of houses that have one."""
GLASS = ((52, 58, 66), (70, 78, 88), (40, 42, 46), (96, 104, 112))
"""Colours of windows."""

Point = tuple[float, float, float]
Quad = tuple[Point, Point, Point, Point]
Plan = tuple[tuple[float, float], tuple[float, float]]


def lots(rng: random.Random, style: Style, street: Street, camera: Camera, side: int) -> Iterator[Prop]:
    """Yield what stands on the lots of one ``side`` of the street, -1 for left and 1 for right."""
    z = NEAR + 0.2
    setback = rng.uniform(0.0, 3.0) * rng.random()
    while z < FAR:
        end = z + rng.uniform(*style.lot_length) * (1 + z / 45)
        if not (street.in_crossing(z, 3.0) or street.in_crossing(end, 3.0) or z < street.crossing < end):
            kind = rng.choices((_house, _greenery, _fenced, _open), style.lots)[0]
            u = side * (street.edge(side) + setback * rng.random())
            near, far = (street.middle(z) + u, z), (street.middle(end) + u, end)
            if camera.sees(*far, margin=2.0):
                yield from kind(rng, style, (near, far), side)
            z = end
        else:
            z += 4.0


def skyline(rng: random.Random, style: Style) -> Iterator[Prop]:
    """Yield the silhouettes of distant blocks and trees around the vanishing point."""
    for category in (Category.BUILDING, Category.VEGETATION):
        green = category is Category.VEGETATION
        height = 24.0 * (style.skyline_green if green else 1 - style.skyline_green)
        outline = [(-320.0, -1.0)]
        x = -320.0
        while x < 320:
            step = rng.uniform(8, 20) if green else rng.uniform(12, 36)
            top = height * rng.uniform(0.3, 1.0)
            outline += [(x, top * rng.uniform(0.7, 1.0) if green else top), (x + step, top)]
            x += step
        outline += [(x, -1.0)]
        points = np.array([(px, py, SKYLINE) for px, py in outline], dtype=np.float32)
        color = vary(rng, rng.choice(style.foliage if green else style.facades))
        texture = Texture.LEAVES if green else Texture.FACADE
        face = Face(len(points), category, color, texture, shade(color, 0.7), (4.0, 4.0))
        yield Prop(SKYLINE - green, points, [face])


def _house(rng: random.Random, style: Style, plan: Plan, side: int) -> Iterator[Prop]:
    """A block with windows, a side wall towards the camera and a roof, perhaps behind a fence or hedge."""
    (x0, z0), (x1, z1) = plan
    storey = rng.uniform(2.8, 3.6)
    eaves = storey * rng.randint(*style.storeys) + rng.uniform(0.2, 1.0)
    wall, roof = vary(rng, rng.choice(style.facades)), vary(rng, rng.choice(style.roofs))
    look = (Texture.FACADE, rng.choice(GLASS), (rng.uniform(1.8, 3.4), storey))
    back, pitched = side * BLOCK_DEPTH, rng.random() < style.pitched_roof
    quads: list[Quad] = []
    faces: list[Face] = []
    if pitched:
        half, ridge = back / 2, eaves + rng.uniform(2.5, 4.5)
        quads.append(((x0, eaves, z0), (x1, eaves, z1), (x1 + half, ridge, z1), (x0 + half, ridge, z0)))
        faces.append(Face(4, Category.BUILDING, roof))
        gable = (x0 + half, ridge, z0)
        quads.append(((x0, eaves, z0), (x0 + back, eaves, z0), gable, gable))
        faces.append(Face(4, Category.BUILDING, shade(wall, 0.95)))
    quads.append(((x0, 0, z0), (x0 + back, 0, z0), (x0 + back, eaves, z0), (x0, eaves, z0)))
    faces.append(Face(4, Category.BUILDING, shade(wall, 0.92), *look))
    quads.append(((x0, 0, z0), (x1, 0, z1), (x1, eaves, z1), (x0, eaves, z0)))
    faces.append(Face(4, Category.BUILDING, wall, *look))
    if not pitched:
        quads.append(_shelf(plan, -0.15 * side, eaves, eaves + rng.uniform(0.3, 0.8)))
        faces.append(Face(4, Category.BUILDING, roof))
    if rng.random() < AWNINGS:
        quads.append(_shelf(plan, -0.9 * side, 0.72 * storey, 0.95 * storey))
        faces.append(Face(4, Category.BUILDING, vary(rng, rng.choice(style.bodywork))))
    yield Prop(z1, np.array(quads, dtype=np.float32).reshape(-1, 3), faces)
    if rng.random() < FRONT_FENCES:
        yield _barrier(rng, style, plan, -0.5 * side, z1 - 0.01)


def _shelf(plan: Plan, out: float, low: float, high: float) -> Quad:
    """Return a quad that leans out from the facade by ``out`` at its lower edge."""
    (x0, z0), (x1, z1) = plan
    return ((x0 + out, low, z0), (x1 + out, low, z1), (x1, high, z1), (x0, high, z0))


def _greenery(rng: random.Random, style: Style, plan: Plan, side: int) -> Iterator[Prop]:
    """A hedge or bushes with trees behind."""
    (x0, z0), (x1, z1) = plan
    for k in range(rng.randint(1, 3)):
        share, away = rng.random(), side * rng.uniform(2, 9)
        grown = tree(rng, style, x0 + share * (x1 - x0) + away, z0 + share * (z1 - z0) + 1.0)
        yield grown._replace(depth=z1 + 0.1 * (3 - k))
    if rng.random() < 0.5:
        leaf = vary(rng, rng.choice(style.foliage))
        hedge = Face(4, Category.VEGETATION, leaf, Texture.LEAVES)
        yield Prop(z1, _quad(plan, 0.0, rng.uniform(0.8, 2.2)), [hedge])
    else:
        for share in (0.2, 0.5, 0.8):
            yield bush(rng, style, x0 + share * (x1 - x0) + side * 0.8, z0 + share * (z1 - z0) + 1.0)


def _fenced(rng: random.Random, style: Style, plan: Plan, side: int) -> Iterator[Prop]:
    """A fence or wall, perhaps with a tree behind."""
    (x0, z0), (x1, z1) = plan
    if rng.random() < 0.6:
        grown = tree(rng, style, (x0 + x1) / 2 + side * rng.uniform(2, 7), (z0 + z1) / 2)
        yield grown._replace(depth=z1 + 0.1)
    yield _barrier(rng, style, plan, 0.0, z1)


def _open(rng: random.Random, style: Style, plan: Plan, side: int) -> Iterator[Prop]:
    """Nothing but a bush."""
    (x0, z0), _ = plan
    yield bush(rng, style, x0 + side * rng.uniform(1, 6), z0 + 2.0)


def _barrier(rng: random.Random, style: Style, plan: Plan, out: float, depth: float) -> Prop:
    color = vary(rng, rng.choice(style.barriers))
    height = rng.uniform(0.9, 2.2)
    bars = rng.random() < 0.6
    texture = Texture.BARS if bars else Texture.PLAIN
    face = Face(4, Category.FENCE, color, texture, shade(color, 0.55), (rng.uniform(0.3, 1.2), 1.0))
    return Prop(depth, _quad(plan, out, height), [face])


def _quad(plan: Plan, out: float, height: float) -> Array:
    (x0, z0), (x1, z1) = plan
    corners = ((x0 + out, 0, z0), (x1 + out, 0, z1), (x1 + out, height, z1), (x0 + out, height, z0))
    return np.array(corners, dtype=np.float32)
