"""The faces of a scene as arrays, and their rasterisation to a picture of face numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from dabnn.data.toy.camera import Array
from dabnn.data.toy.scene import Scene
from dabnn.data.toy.shapes import Face, Texture

GRAIN = {Texture.PLAIN: 0.08, Texture.FACADE: 0.14, Texture.LEAVES: 0.7, Texture.BARS: 0.12, Texture.GLOW: 0.0}
"""Strength of the noise on a face."""


class FaceTable(NamedTuple):
    """The visible faces of a scene from far to near, one row per face.

    Attributes:
        category: What each is, (F,).
        texture: Pattern, (F,).
        color: Colour in this scene's light, (F, 3).
        accent: Second colour in this scene's light, (F, 3).
        plane: Inverse depth as a linear function (across, down, 1) of a ray, (F, 3).
        along: Unit vector (x, z) along the face, (F, 2).
        period: Size in metres of the pattern's elements, (F, 2).
        grain: Strength of the noise, (F,).
        outlines: Corners in pixels as x, y, x, y ..., one list per face.
    """

    category: npt.NDArray[np.uint8]
    texture: npt.NDArray[np.uint8]
    color: Array
    accent: Array
    plane: Array
    along: Array
    period: Array
    grain: Array
    outlines: list[list[float]]


def tabulate(scene: Scene, size: tuple[int, int]) -> FaceTable:
    """Project the faces to an image of ``size`` (height, width), light them, and drop those out of view."""
    faces = [face for prop in scene.props for face in prop.faces]
    points = np.concatenate([prop.points for prop in scene.props])
    ends = np.cumsum([face.corners for face in faces])
    starts = ends - np.array([face.corners for face in faces])
    pixels = scene.camera.project(points, size)

    normal = np.cross(points[starts + 1] - points[starts], points[starts + 2] - points[starts])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + np.float32(1e-9)
    offset = (normal * points[starts]).sum(axis=1) - normal[:, 1] * np.float32(scene.camera.height)
    low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
    seen = (low < (size[1], size[0])).all(axis=1) & (high > 0).all(axis=1) & (np.abs(offset) > 1e-3)
    seen &= ~np.array([face.solid for face in faces]) | (offset < 0)
    kept = np.flatnonzero(seen)

    faces = [faces[k] for k in kept.tolist()]
    normal, offset = normal[kept], offset[kept]
    light = _light(scene, normal * -np.sign(offset)[:, None])
    glowing = np.array([face.texture is Texture.GLOW for face in faces])
    light[glowing] = 1.2 / max(scene.conditions.exposure, 0.5)
    texture = np.array([face.texture for face in faces], dtype=np.uint8)
    along = np.stack((normal[:, 2], -normal[:, 0]), axis=1)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + np.float32(1e-9)
    flat = pixels.ravel().tolist()
    return FaceTable(
        category=np.array([face.category for face in faces], dtype=np.uint8),
        texture=texture,
        color=_rows([face.color for face in faces]) * light,
        accent=_rows([face.accent for face in faces]) * light,
        plane=np.stack((normal[:, 0], -normal[:, 1], normal[:, 2]), axis=1) / offset[:, None],
        along=along,
        period=_rows([face.period for face in faces]),
        grain=np.array([GRAIN[texture] for texture in Texture], dtype=np.float32)[texture],
        outlines=[flat[2 * start : 2 * end] for start, end in zip(starts[kept], ends[kept], strict=True)],
    )


def rasterise(table: FaceTable, size: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Return the number of the face seen at each pixel, (height, width), -1 where there is none."""
    picture = Image.new("I", (size[1], size[0]), -1)
    draw = ImageDraw.Draw(picture)
    for number, outline in enumerate(table.outlines):
        draw.polygon(outline, fill=number)
    return np.asarray(picture)


def _light(scene: Scene, normal: Array) -> Array:
    """Return the light, (F, 3), that falls on faces whose ``normal``, (F, 3), points at the camera."""
    conditions = scene.conditions
    facing = np.maximum(normal @ conditions.sun_direction, 0)[:, None]
    overhead = np.float32(0.85) + np.float32(0.15) * normal[:, 1:2]
    return overhead * conditions.ambient + facing * conditions.sun


def _rows(values: list[tuple[float, ...]]) -> Array:
    return np.array(values, dtype=np.float32)
