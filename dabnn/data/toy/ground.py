"""The ground plane: what lies where on and beside the road, and its colours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dabnn.data.toy.camera import Array
from dabnn.data.toy.noise import noise
from dabnn.data.toy.street import CROSSING_REACH, Street
from dabnn.data.toy.style import Category, Style

Categories = npt.NDArray[np.uint8]

LINE = 0.1
"""Half the width of a line on the road in metres."""
MARKED_TO = 70.0
"""Depth in metres beyond which lane markings cannot be seen."""


def paint_ground(street: Street, style: Style, wear: float, x: Array, z: Array) -> tuple[Categories, Array]:
    """Return the category, (N,), and the colour in [0, 255], (N, 3), of ground points ``x``, ``z`` (N,)."""
    u = x - street.middle(z)
    category, inside = _plan(street, u, z)
    lines = _markings(street, u, z, inside) if street.marked else np.zeros(len(u), dtype=bool)
    category[lines] = Category.MARKING
    return category, _colors(street, style, wear, category, u, z)


def _plan(street: Street, u: Array, z: Array) -> tuple[Categories, npt.NDArray[np.bool_]]:
    """Tell road, sidewalk and terrain apart; also return where the road of this street is."""
    distance, right = np.abs(u), u > 0
    verge = np.where(right, np.float32(street.verges[1]), np.float32(street.verges[0]))
    sidewalk = np.where(right, np.float32(street.sidewalks[1]), np.float32(street.sidewalks[0]))
    beside = distance - np.float32(street.half_width)
    from_crossing = np.abs(z - np.float32(street.crossing)) - np.float32(street.crossing_half_width)
    road = (beside < 0) | (from_crossing < 0)
    paved = ((beside > verge) & (beside < verge + sidewalk)) | (from_crossing < 1.5)
    category = np.where(road, np.uint8(Category.ROAD), np.where(paved, np.uint8(Category.SIDEWALK), np.uint8(Category.TERRAIN)))
    return category, (beside < 0) & (from_crossing > 0)


def _markings(street: Street, u: Array, z: Array, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return where lane lines, stop lines and zebra crossings are."""
    lane = u / np.float32(street.lane_width)
    divider = np.rint(lane)
    line = np.abs(lane - divider) < LINE / street.lane_width
    outermost = np.abs(divider) >= street.lanes
    line &= np.abs(divider) <= street.lanes - (street.parking < 1)
    line &= outermost | (z % np.float32(8) < 4.5)
    before = np.abs(z - np.float32(street.crossing)) - np.float32(street.crossing_half_width)
    zebra = np.abs(before - np.float32(CROSSING_REACH / 2)) < 1.4
    line = np.where(before < CROSSING_REACH + 0.5, zebra & (u % np.float32(1.1) < 0.55), line)
    stop = (np.abs(before - np.float32(CROSSING_REACH + 0.8)) < 0.25) & (u * street.drive_side > 0)
    return (line | (stop & (z < street.crossing))) & inside & (z < MARKED_TO)


def _colors(street: Street, style: Style, wear: float, category: Categories, u: Array, z: Array) -> Array:
    coarse = noise(u * np.float32(3), z * np.float32(1.5))
    fine = noise(u * np.float32(23) + np.float32(91), z * np.float32(17))
    palette = np.zeros((len(Category), 3), dtype=np.float32)
    palette[Category.ROAD] = style.asphalt
    palette[Category.MARKING] = style.paint
    palette[Category.SIDEWALK] = style.paving
    palette[Category.TERRAIN] = style.ground[0]
    color = palette[category]
    level = 1 + np.float32(0.12) * coarse + np.float32(0.10) * fine
    road = category == Category.ROAD
    track = np.abs(np.abs(u / np.float32(street.lane_width)) % 1 - np.float32(0.5))
    level = np.where(road, level - np.float32(0.06) * (np.abs(track - np.float32(0.25)) < 0.08), level)
    patched = road & (noise(u * np.float32(0.9) + np.float32(40), z * np.float32(0.35)) > 0.3)
    level = np.where(patched, level * np.float32(0.84), level)
    walk = category == Category.SIDEWALK
    joint = ((u % np.float32(0.9) < 0.1) | (z % np.float32(0.9) < 0.1)) & (z < 30)
    kerb = walk & (np.abs(np.abs(u) - np.float32(street.half_width + 0.12)) < 0.14)
    level = np.where(walk & joint, level * np.float32(0.86), level)
    level = np.where(kerb, level * np.float32(1.22), level)
    worn = (category == Category.MARKING) * np.clip(fine + np.float32(wear), 0, 0.85)
    color += worn[:, None] * (palette[Category.ROAD] - color)
    mixed = (category == Category.TERRAIN) * np.clip(0.5 + 1.5 * coarse + fine, 0, 1)
    color += mixed[:, None] * (np.array(style.ground[1], dtype=np.float32) - color)
    return color * level[:, None]
