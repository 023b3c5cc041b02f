"""From a scene to pixels: every pixel gets the colour of the face, ground or sky that it shows.

Colours are stored as three planes, (3, N): that is what a network takes, and what numpy is fast at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dabnn.data.toy.camera import Array
from dabnn.data.toy.faces import FaceTable, rasterise, tabulate
from dabnn.data.toy.ground import paint_ground
from dabnn.data.toy.noise import noise
from dabnn.data.toy.scene import Scene
from dabnn.data.toy.shadows import draw_shadows
from dabnn.data.toy.shapes import Texture
from dabnn.data.toy.style import Category

Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]
Categories = npt.NDArray[np.uint8]

HORIZON = 400.0
"""Depth in metres at which the ground ends."""
LAMPLIGHT = np.array(((255,), (206,), (128,)), dtype=np.float32)
"""Colour of lit windows."""


def render(scene: Scene, size: tuple[int, int]) -> tuple[Array, Categories]:
    """Return the colours in [0, 255], (3, height, width), and the categories, (height, width), of a scene.

    Faces are rasterised at twice the size, so that their edges are smooth; a pixel is coloured four times
    only where such an edge runs through it.
    """
    fine = (2 * size[0], 2 * size[1])
    table = tabulate(scene, fine)
    ids = rasterise(table, fine)
    edges, where = _samples(ids)
    color, category = _shade(scene, table, fine, ids.take(where).astype(np.intp), where)
    pixels = size[0] * size[1]
    image, category = color[:, :pixels], category[:pixels].reshape(size)
    others = color[:, pixels:].reshape(3, 3, -1).sum(axis=1)
    for plane, sums in zip(image, others, strict=True):
        plane[edges] = (plane[edges] + sums) * np.float32(0.25)
    image = image.reshape(3, *size)
    if scene.conditions.rain:
        _mirror(scene, image, category)
    if scene.style.hood:
        _cover_with_hood(scene.style.hood, image, category)
    return image, category


def _samples(ids: npt.NDArray[np.int32]) -> tuple[Indices, Indices]:
    """Return the pixels in which faces meet, (E,), and the positions in the fine picture to colour.

    The positions, (P + 3 E,), are one for every pixel, then the three others of every edge pixel.
    """
    corner = ids[::2, ::2]
    others = (ids[::2, 1::2], ids[1::2, ::2], ids[1::2, 1::2])
    edges = np.flatnonzero((corner != others[0]) | (corner != others[1]) | (corner != others[2]))
    width = ids.shape[1]
    position = np.arange(ids.size).reshape(ids.shape)[::2, ::2].ravel()
    at_edges = position[edges]
    return edges, np.concatenate((position, at_edges + 1, at_edges + width, at_edges + width + 1))


def _shade(
    scene: Scene, table: FaceTable, size: tuple[int, int], ids: Indices, where: Indices
) -> tuple[Array, Categories]:
    """Return the colours, (3, N), and categories, (N,), of positions ``where``, (N,), that show ``ids``."""
    across, down = scene.camera.rays(size)
    across, down = np.tile(across, (size[0], 1)).take(where), down.take(where)
    empty = ids < 0
    below = down > np.float32(scene.camera.height / HORIZON)
    parts = [np.flatnonzero(part) for part in (~empty, empty & below, empty & ~below)]
    (standing, ground, sky), rank = parts, np.empty(len(ids), dtype=np.intp)
    rank[np.concatenate(parts)] = np.arange(len(ids))

    face_color = _faces(scene, table, ids[standing], across[standing], down[standing])
    shadows = [layer.take(where[ground]) for layer in draw_shadows(scene, size)]
    ground_category, ground_color = _ground(scene, across[ground], down[ground], *shadows)
    sky_color = _sky(scene, across[sky], down[sky])
    color = np.concatenate((face_color, ground_color, sky_color), axis=1)
    sky_category = np.full(len(sky), Category.SKY, dtype=np.uint8)
    category = np.concatenate((table.category[ids[standing]], ground_category, sky_category))
    return color.take(rank, axis=1), category.take(rank)


def _faces(scene: Scene, table: FaceTable, ids: Indices, across: Array, down: Array) -> Array:
    """Colour rays, (N,), that meet the faces ``ids``."""
    a, b, c, dx, dz = table.geometry.take(ids, axis=1)
    depth = 1 / np.clip(a * across + b * down + c, np.float32(1 / HORIZON), np.float32(1))
    s = (dx * across + dz) * depth
    up = np.float32(scene.camera.height) - down * depth
    shift = table.shift[ids]
    texture, color = table.texture[ids], table.color.take(ids, axis=1)
    facade = np.flatnonzero(texture == Texture.FACADE)
    panes, pane_color = _windows(scene, table, ids[facade], s[facade], up[facade])
    _assign(color, facade[panes], pane_color)
    bars = np.flatnonzero(texture == Texture.BARS)
    turns = s[bars] / table.period[0, ids[bars]]
    gaps = bars[turns - np.floor(turns) < 0.4]
    _assign(color, gaps, table.accent.take(ids[gaps], axis=1))
    color *= 1 + table.grain[ids] * noise(s * 5 + shift, up * 5 + shift)
    return _haze(scene, color, depth)


def _windows(scene: Scene, table: FaceTable, ids: Indices, s: Array, up: Array) -> tuple[Indices, Array]:
    """Return which points of walls, (N,), lie in a window or shop, (P,), and their colours, (3, P).

    Windows differ in brightness, and at dusk some are lit.
    """
    column, row = np.stack((s, up)) / table.period.take(ids, axis=1)
    left, floor = np.floor(column), np.floor(row)
    x, y = np.abs(column - left - np.float32(0.5)), row - floor
    shop = (row < 1) & (x < 0.4) & (y > 0.12) & (y < 0.8)
    panes = np.flatnonzero(shop | ((row >= 1) & (x < 0.27) & (y > 0.28) & (y < 0.82)))
    shift = table.shift[ids[panes]]
    cell = noise(left[panes] * 17 + shift, floor[panes] * 29 + shift)
    color = table.accent.take(ids[panes], axis=1) * (1 + np.float32(0.8) * cell)
    lit = np.flatnonzero(np.float32(0.6) * cell + np.float32(0.5) < scene.conditions.lit)
    color[:, lit] = LAMPLIGHT
    return panes, color


def _ground(scene: Scene, across: Array, down: Array, cast: Flags, under: Flags) -> tuple[Categories, Array]:
    """Return what rays, (N,), show of the ground and its colours, given where it lies in shadow."""
    depth = np.float32(scene.camera.height) / down
    category, color = paint_ground(scene.street, scene.style, scene.wear, across * depth, depth)
    conditions = scene.conditions
    sun = conditions.sun * conditions.sun_direction[1]
    sky = conditions.ambient
    lights = np.stack((sky + sun, sky, np.float32(0.45) * sky), axis=1)
    color *= lights.take(np.where(under, 2, cast), axis=1)
    return category, _haze(scene, color, depth)


def _sky(scene: Scene, across: Array, down: Array) -> Array:
    """Colour the sky: a gradient, and clouds in perspective."""
    low, top = scene.conditions.sky_low[:, None], scene.conditions.sky_top[:, None]
    rise = np.maximum(-down, 0)
    distance = np.float32(6) / (rise + np.float32(0.12))
    seed = np.float32(scene.seed % 251)
    cloud = noise(across * distance * 2 + seed, distance * 3 + seed)
    color = low + rise / (rise + np.float32(0.25)) * (top - low)
    return color * (1 + np.float32(0.35 * scene.style.clouds) * cloud)


def _assign(color: Array, points: Indices, values: Array) -> None:
    """Do ``color[:, points] = values``, which numpy is slow at, in place."""
    for plane, row in zip(color, values, strict=True):
        plane[points] = row


def _haze(scene: Scene, color: Array, depth: Array) -> Array:
    """Blend colours, (3, N), at depths, (N,), with the haze in between."""
    haze = scene.conditions.sky_low[:, None]
    return haze + np.exp(depth * np.float32(-scene.conditions.haze)) * (color - haze)


def _mirror(scene: Scene, image: Array, category: Categories) -> None:
    """Mirror what stands above the horizon in the wet ground of ``image``, in place."""
    height = image.shape[1]
    horizon = round(scene.camera.horizon * height)
    mirrored = image[:, np.clip(2 * horizon - np.arange(horizon, height), 0, height - 1)]
    wet = category[horizon:] <= Category.SIDEWALK
    share = np.float32(0.45 * scene.conditions.rain) * wet
    image[:, horizon:] += share * (mirrored - np.float32(1.25) * image[:, horizon:])


def _cover_with_hood(hood: float, image: Array, category: Categories) -> None:
    """Cover the bottom of ``image`` and ``category`` with the ego car's hood, in place."""
    height, width = category.shape
    x = (np.arange(width, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / width) - 1
    start = int(height * (1 - hood))
    y = (np.arange(start, height, dtype=np.float32)[:, None] + np.float32(0.5)) / np.float32(height)
    edge = 1 - np.float32(hood) * (1 - np.float32(0.7) * x**2)
    gloss = np.float32(52) + 60 * (y - edge) / np.float32(hood)
    image[:, start:] = np.where(y > edge, gloss, image[:, start:])
    category[start:] = np.where(y > edge, np.uint8(Category.EGO), category[start:])
