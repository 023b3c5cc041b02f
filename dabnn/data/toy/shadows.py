"""Shadows on the ground: cast by the sun, and the darkness under what stands there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from dabnn.data.toy.camera import NEAR, Array
from dabnn.data.toy.scene import Scene
from dabnn.data.toy.style import Category

HIGHEST = 15.0
"""Greatest height in metres that casts a shadow, to keep long shadows near."""
FAR = 100.0
"""Depth in metres beyond which nothing casts a shadow."""

Layer = npt.NDArray[np.bool_]


def draw_shadows(scene: Scene, size: tuple[int, int]) -> tuple[Layer, Layer]:
    """Return where on the ground, (height, width), the light of the sun and of the sky is blocked."""
    props = [prop for prop in scene.props if prop.depth < FAR]
    if not props:
        return np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    points = np.concatenate([prop.points for prop in props])
    ends = np.cumsum([len(prop.points) for prop in props])
    starts = np.concatenate(([0], ends[:-1]))
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    category = np.array([prop.faces[-1].category for prop in props])
    cars = category == Category.VEHICLE
    under = _fill(scene, _footprints(low[cars], high[cars]), size)
    if not scene.conditions.sun.any():
        return np.zeros(size, dtype=bool), under
    return _fill(scene, _cast(scene, low, high, category == Category.VEGETATION), size), under


def _footprints(low: Array, high: Array) -> Array:
    """Return the corners, (N, 4, 3), of the ground between the extents ``low`` and ``high``, (N, 3)."""
    corners = np.zeros((len(low), 4, 3), dtype=np.float32)
    corners[:, (0, 3), 0], corners[:, (1, 2), 0] = low[:, :1], high[:, :1]
    corners[:, :2, 2], corners[:, 2:, 2] = low[:, 2:] - np.float32(0.2), high[:, 2:]
    return corners


def _cast(scene: Scene, low: Array, high: Array, leafy: npt.NDArray[np.bool_]) -> Array:
    """Return the corners, (N, 4, 3), of the shadows of upright bodies; crowns start above the ground."""
    toward = scene.conditions.sun_direction
    reach = np.minimum(high[:, 1:2], np.float32(HIGHEST)) * (-toward / toward[1])
    reach[:, 1] = 0
    middle, half = (low[:, 0] + high[:, 0]) / 2, (high[:, 0] - low[:, 0]) / 2
    half = np.where(leafy, np.float32(0.8) * half, half)
    base = np.zeros((len(low), 2, 3), dtype=np.float32)
    base[:, :, 0] = np.stack((middle - half, middle + half), axis=1)
    base[:, :, 2] = ((low[:, 2] + high[:, 2]) / 2)[:, None]
    start = np.where(leafy, np.float32(0.4), np.float32(0))[:, None] * reach
    return np.concatenate((base + start[:, None], base[:, ::-1] + reach[:, None]), axis=1)


def _fill(scene: Scene, corners: Array, size: tuple[int, int]) -> Layer:
    picture = Image.new("L", (size[1], size[0]))
    if len(corners):
        np.maximum(corners[..., 2], np.float32(NEAR), out=corners[..., 2])
        outlines = scene.camera.project(corners.reshape(-1, 3), size).reshape(-1, 8).tolist()
        draw = ImageDraw.Draw(picture)
        for outline in outlines:
            draw.polygon(outline, fill=1)
    return np.asarray(picture).view(np.bool_)
