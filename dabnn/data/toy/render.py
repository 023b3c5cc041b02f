"""From a scene to pixels: every pixel gets the colour of the face, ground or sky that it shows."""

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

HORIZON = 400.0
"""Depth in metres at which the ground ends."""
LAMPLIGHT = np.array((255, 206, 128), dtype=np.float32)
"""Colour of lit windows."""


def render(scene: Scene, size: tuple[int, int]) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Return the colours in [0, 255], (height, width, 3), and the categories, (height, width), of a scene.

    Faces are rasterised at twice the size, so that their edges are smooth; a pixel is coloured four times
    only where such an edge runs through it.
    """
    fine = (2 * size[0], 2 * size[1])
    table = tabulate(scene, fine)
    ids = rasterise(table, fine)
    edges, where = _samples(ids)
    color, category = _shade(scene, table, fine, ids.ravel()[where], where)
    pixels = size[0] * size[1]
    image, category = color[:pixels], category[:pixels].reshape(size)
    image[edges] = (image[edges] + color[pixels:].reshape(3, -1, 3).sum(axis=0)) * np.float32(0.25)
    image = image.reshape(*size, 3)
    if scene.conditions.rain:
        _mirror(scene, image, category)
    if scene.style.hood:
        _cover_with_hood(scene.style.hood, image, category)
    return image * np.float32(scene.conditions.exposure), category


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
    scene: Scene, table: FaceTable, size: tuple[int, int], ids: npt.NDArray[np.int32], where: Indices
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Return the colours, (N, 3), and categories, (N,), of the positions ``where``, (N,), that show ``ids``."""
    across, down = scene.camera.rays(size)
    across, down = across.ravel()[where % size[1]], down.ravel()[where]
    empty = ids < 0
    below = down > np.float32(scene.camera.height / HORIZON)
    standing, ground, sky = np.flatnonzero(~empty), np.flatnonzero(empty & below), np.flatnonzero(empty & ~below)

    color = np.empty((len(ids), 3), dtype=np.float32)
    category = np.full(len(ids), Category.SKY, dtype=np.uint8)
    depth = np.full(len(ids), np.inf, dtype=np.float32)
    category[standing] = table.category[ids[standing]]
    color[standing], depth[standing] = _faces(scene, table, ids[standing], across[standing], down[standing])
    depth[ground] = np.float32(scene.camera.height) / down[ground]
    shadows = [layer.ravel()[where[ground]] for layer in draw_shadows(scene, size)]
    category[ground], color[ground] = _ground(scene, across[ground], depth[ground], *shadows)
    color[sky] = _sky(scene, across[sky], down[sky])
    clear = np.exp(depth * np.float32(-scene.conditions.haze))
    clear[sky] = 1
    return scene.conditions.sky_low + clear[:, None] * (color - scene.conditions.sky_low), category


def _faces(scene: Scene, table: FaceTable, ids: npt.NDArray[np.int32], across: Array, down: Array) -> tuple[Array, Array]:
    """Return the colours, (N, 3), and the depths, (N,), of rays that meet the faces ``ids``."""
    plane, along = table.plane[ids], table.along[ids]
    inverse = plane[:, 0] * across + plane[:, 1] * down + plane[:, 2]
    depth = 1 / np.clip(inverse, np.float32(1 / HORIZON), np.float32(1))
    s = (along[:, 0] * across + along[:, 1]) * depth
    up = np.float32(scene.camera.height) - down * depth
    shift = ids * np.float32(37)
    grain = noise(s * 5 + shift, up * 5 + shift)
    color, texture = table.color[ids], table.texture[ids]
    facade = np.flatnonzero(texture == Texture.FACADE)
    color[facade] = _windows(scene, table, ids[facade], color[facade], s[facade], up[facade])
    bars = np.flatnonzero(texture == Texture.BARS)
    gaps = bars[(s[bars] / table.period[ids[bars], 0]) % 1 < 0.4]
    color[gaps] = table.accent[ids[gaps]]
    color *= (1 + table.grain[ids] * grain)[:, None]
    return color, depth


def _windows(scene: Scene, table: FaceTable, ids: npt.NDArray[np.int32], color: Array, s: Array, up: Array) -> Array:
    """Put windows and a shop floor on walls; the windows differ in brightness, at dusk some are lit."""
    period = table.period[ids]
    column, row = s / period[:, 0], up / period[:, 1]
    left, floor = np.floor(column), np.floor(row)
    cell = noise(left * 17 + ids * np.float32(5), floor * 29 + ids * np.float32(3))
    x, y = np.abs(column - left - np.float32(0.5)), row - floor
    window = np.where(row < 1, (x < 0.4) & (y > 0.12) & (y < 0.8), (x < 0.27) & (y > 0.28) & (y < 0.82))
    pane = table.accent[ids] * (1 + np.float32(0.8) * cell)[:, None]
    pane[np.float32(0.6) * cell + np.float32(0.5) < scene.conditions.lit] = LAMPLIGHT
    return np.where(window[:, None], pane, color)


def _ground(
    scene: Scene, across: Array, depth: Array, cast: npt.NDArray[np.bool_], under: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.uint8], Array]:
    """Return categories, (N,), and colours, (N, 3), of the ground, given where shadows are cast and what is covered."""
    category, color = paint_ground(scene.street, scene.style, scene.wear, across * depth, depth)
    conditions = scene.conditions
    sun = conditions.sun * conditions.sun_direction[1]
    lights = np.stack((conditions.ambient + sun, conditions.ambient, 0.45 * conditions.ambient)).astype(np.float32)
    return category, color * lights[np.where(under, 2, cast)]


def _sky(scene: Scene, across: Array, down: Array) -> Array:
    """Colour the sky: a gradient, and clouds in perspective."""
    conditions = scene.conditions
    rise = np.maximum(-down, 0)
    share = (rise / (rise + np.float32(0.25)))[:, None]
    distance = 6 / (rise + np.float32(0.12))
    seed = np.float32(scene.seed % 251)
    cloud = noise(across * distance * 2 + seed, distance * 3 + seed)
    color = conditions.sky_low + share * (conditions.sky_top - conditions.sky_low)
    return color * (1 + np.float32(0.35 * scene.style.clouds) * cloud)[:, None]


def _mirror(scene: Scene, image: Array, category: npt.NDArray[np.uint8]) -> None:
    """Mirror what stands above the horizon in the wet ground of ``image``, in place."""
    height = image.shape[0]
    horizon = round(scene.camera.horizon * height)
    rows = np.arange(horizon, height)
    mirrored = image[np.clip(2 * horizon - rows, 0, height - 1)]
    wet = np.isin(category[horizon:], (Category.ROAD, Category.MARKING, Category.SIDEWALK))
    share = (np.float32(0.45 * scene.conditions.rain) * wet)[..., None]
    image[horizon:] += share * (mirrored - np.float32(1.25) * image[horizon:])


def _cover_with_hood(hood: float, image: Array, category: npt.NDArray[np.uint8]) -> None:
    """Cover the bottom of ``image`` and ``category`` with the ego car's hood, in place."""
    height, width = category.shape
    x = (np.arange(width, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / width) - 1
    rows = np.arange(int(height * (1 - hood)), height)
    y = (rows[:, None] + np.float32(0.5)) / np.float32(height)
    edge = 1 - np.float32(hood) * (1 - np.float32(0.7) * x**2)
    covered = y > edge
    gloss = np.float32(52) + 60 * (y - edge) / np.float32(hood)
    image[rows] = np.where(covered[..., None], gloss[..., None], image[rows])
    category[rows] = np.where(covered, np.uint8(Category.EGO), category[rows])
