"""The ground plane: what lies where on and beside the road, and its colours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dabnn.data.toy.camera import Array
from dabnn.data.toy.noise import noise
from dabnn.data.toy.street import CROSSING_REACH, Street
from dabnn.data.toy.style import Category, Style

Categories = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

LINE = 0.1
"""Half the width of a line on the road in metres."""
MARKED_TO = 70.0
"""Depth in metres beyond which lane markings cannot be seen."""


def paint_ground(street: Street, style: Style, wear: float, x: Array, z: Array) -> tuple[Categories, Array]:
    """Return the category, (N,), and the colour in [0, 255], (3, N), of ground points ``x``, ``z`` (N,)."""
    u = x - street.middle(z)
    from_crossing = np.abs(z - np.float32(street.crossing)) - np.float32(street.crossing_half_width)
    category = _plan(street, u, from_crossing)
    if street.marked:
        lines = _markings(street, u, z, from_crossing) & (category == Category.ROAD)
        category[lines] = Category.MARKING
    return category, _colors(street, style, wear, category, u, z)


def _plan(street: Street, u: Array, from_crossing: Array) -> Categories:
    """Tell road, sidewalk and terrain apart."""
    right = (u > 0).view(np.uint8)
    beside = np.abs(u) - np.float32(street.half_width)
    off_verge = beside - np.array(street.verges, dtype=np.float32)[right]
    paved = (off_verge > 0) & (off_verge < np.array(street.sidewalks, dtype=np.float32)[right])
    category = np.full(len(u), Category.TERRAIN, dtype=np.uint8)
    category[paved | (from_crossing < 1.5)] = Category.SIDEWALK
    category[(beside < 0) | (from_crossing < 0)] = Category.ROAD
    return category


def _markings(street: Street, u: Array, z: Array, from_crossing: Array) -> Flags:
    """Return where lane lines, stop lines and zebra crossings are."""
    lane = u * np.float32(1 / street.lane_width)
    divider = np.rint(lane)
    line = np.abs(lane - divider) < LINE / street.lane_width
    number = np.abs(divider)
    line &= number <= street.lanes - (street.parking < 1)
    line &= (number >= street.lanes) | (_fraction(z, 8) < 0.56)
    zebra = (np.abs(from_crossing - np.float32(CROSSING_REACH / 2)) < 1.4) & (_fraction(u, 1.1) < 0.5)
    line = np.where(from_crossing < CROSSING_REACH + 0.5, zebra & (np.abs(u) < street.half_width), line)
    stop = np.abs(from_crossing - np.float32(CROSSING_REACH + 0.8)) < 0.25
    line |= stop & (u * street.drive_side > 0) & (z < street.crossing)
    return line & (from_crossing > 0) & (z < MARKED_TO)


def _colors(street: Street, style: Style, wear: float, category: Categories, u: Array, z: Array) -> Array:
    coarse = noise(u * 3, z * np.float32(1.5))
    fine = noise(u * 23 + 91, z * 17)
    level = 1 + np.float32(0.12) * coarse + np.float32(0.10) * fine

    road = np.flatnonzero(category == Category.ROAD)
    patch = noise(u[road] * np.float32(0.9) + 40, z[road] * np.float32(0.35)) > 0.3
    track = np.abs(_fraction(np.abs(u[road]), 0.5 * street.lane_width) - np.float32(0.5)) < 0.16
    level[road] *= 1 - np.float32(0.16) * patch - np.float32(0.06) * track

    walk = np.flatnonzero(category == Category.SIDEWALK)
    joint = ((_fraction(u[walk], 0.9) < 0.1) | (_fraction(z[walk], 0.9) < 0.1)) & (z[walk] < 30)
    kerb = np.abs(np.abs(u[walk]) - np.float32(street.half_width + 0.12)) < 0.14
    level[walk] *= 1 - np.float32(0.14) * joint + np.float32(0.22) * kerb

    palette = np.zeros((3, len(Category)), dtype=np.float32)
    for kind, color in (
        (Category.ROAD, style.asphalt),
        (Category.MARKING, style.paint),
        (Category.SIDEWALK, style.paving),
        (Category.TERRAIN, style.ground[0]),
    ):
        palette[:, kind] = color
    painted = palette.take(category, axis=1)
    _blend(painted, category == Category.MARKING, style.asphalt, np.clip(fine + np.float32(wear), 0, 0.85))
    _blend(painted, category == Category.TERRAIN, style.ground[1], np.clip(0.5 + 1.5 * coarse + fine, 0, 1))
    return painted * level


def _blend(painted: Array, there: Flags, color: tuple[int, int, int], share: Array) -> None:
    """Mix a ``share``, (N,), of ``color`` into ``painted``, (3, N), where it is ``there``, in place."""
    points = np.flatnonzero(there)
    for plane, value in zip(painted, color, strict=True):
        plane[points] += share[points] * (np.float32(value) - plane[points])


def _fraction(values: Array, period: float) -> Array:
    """Return where ``values`` are within their period, in [0, 1)."""
    turns = values * np.float32(1 / period)
    return turns - np.floor(turns)
