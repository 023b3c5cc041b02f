"""The faces of a scene as arrays, and their rasterisation to a picture of face numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from dabnn.data.toy.camera import Array
from dabnn.data.toy.noise import PERIOD
from dabnn.data.toy.scene import Scene
from dabnn.data.toy.shapes import Texture

GRAIN = np.array((0.08, 0.14, 0.7, 0.12, 0.0), dtype=np.float32)
"""Strength of the noise on a face of each `Texture`."""
SMALLEST = 0.5
"""Faces whose extent is fewer pixels than this are not drawn."""


class FaceTable(NamedTuple):
    """The visible faces of a scene from far to near, one row per face.

    Attributes:
        category: What each is, (F,).
        texture: Pattern, (F,).
        color: Colour in this scene's light, (3, F).
        accent: Second colour in this scene's light, (3, F).
        period: Width and height in metres of the pattern's elements, (2, F).
        grain: Strength of the noise, (F,).
        shift: Offset that makes the noise of each face its own, (F,).
        geometry: Inverse depth as a linear function (across, down, 1) of a ray, then the unit vector (x, z)
            along the face, (5, F).
        outlines: Corners in pixels as x, y, x, y ..., one list per face.
    """

    category: npt.NDArray[np.uint8]
    texture: npt.NDArray[np.uint8]
    color: Array
    accent: Array
    period: Array
    grain: Array
    shift: Array
    geometry: Array
    outlines: list[list[float]]


def tabulate(scene: Scene, size: tuple[int, int]) -> FaceTable:
    """Project the faces to an image of ``size`` (height, width), light them, and drop those out of view."""
    faces = [face for prop in scene.props for face in prop.faces]
    points = np.concatenate([prop.points for prop in scene.props])
    ends = np.cumsum([face.corners for face in faces])
    starts = np.concatenate(([0], ends[:-1]))
    pixels = scene.camera.project(points, size)

    normal = _normals(points, starts)
    offset = (normal * points[starts].T).sum(axis=0) - normal[1] * np.float32(scene.camera.height)
    low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
    (left, top), (right, bottom) = low.T, high.T
    seen = (left < size[1]) & (right > 0) & (top < size[0]) & (bottom > 0)
    seen &= (right - left) * (bottom - top) > SMALLEST
    seen &= np.where([face.solid for face in faces], offset < 0, np.abs(offset) > 1e-3)
    kept = np.flatnonzero(seen)

    faces = [faces[k] for k in kept.tolist()]
    normal, offset = normal[:, kept], offset[kept]
    texture = np.frombuffer(bytes([face.texture for face in faces]), dtype=np.uint8)
    light = _light(scene, normal * -np.sign(offset))
    light[:, texture == Texture.GLOW] = 1.2
    flat = pixels.ravel().tolist()
    spans = zip((2 * starts[kept]).tolist(), (2 * ends[kept]).tolist(), strict=True)
    return FaceTable(
        category=np.frombuffer(bytes([face.category for face in faces]), dtype=np.uint8),
        texture=texture,
        color=_columns([face.color for face in faces]) * light,
        accent=_columns([face.accent for face in faces]) * light,
        period=_columns([face.period for face in faces]),
        grain=GRAIN[texture],
        shift=(kept * 37 % PERIOD).astype(np.float32),
        geometry=_geometry(normal, offset),
        outlines=[flat[start:end] for start, end in spans],
    )


def rasterise(table: FaceTable, size: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Return the number of the face seen at each pixel, (height, width), -1 where there is none."""
    picture = Image.new("I", (size[1], size[0]), -1)
    draw = ImageDraw.Draw(picture)
    for number, outline in enumerate(table.outlines):
        draw.polygon(outline, fill=number)
    return np.asarray(picture)


def _columns(values: list[tuple[float, ...]]) -> Array:
    return np.array(values, dtype=np.float32).T


def _light(scene: Scene, normal: Array) -> Array:
    """Return the light, (3, F), that falls on faces whose ``normal``, (3, F), points at the camera."""
    conditions = scene.conditions
    facing = np.maximum(conditions.sun_direction @ normal, 0)
    overhead = np.float32(0.85) + np.float32(0.15) * normal[1]
    return overhead * conditions.ambient[:, None] + facing * conditions.sun[:, None]


def _normals(points: Array, starts: npt.NDArray[np.intp]) -> Array:
    """Return the unit normal, (3, F), of every face from its first three points."""
    first = points[starts]
    (ax, ay, az), (bx, by, bz) = (points[starts + 1] - first).T, (points[starts + 2] - first).T
    normal = np.stack((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx))
    return normal / (np.sqrt((normal * normal).sum(axis=0)) + np.float32(1e-9))


def _geometry(normal: Array, offset: Array) -> Array:
    """Return `FaceTable.geometry` of planes: points p relative to the camera with normal . p = offset."""
    across, up, ahead = normal
    along = np.sqrt(across * across + ahead * ahead) + np.float32(1e-9)
    return np.stack((across / offset, -up / offset, ahead / offset, ahead / along, -across / along))
