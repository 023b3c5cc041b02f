"""A pinhole camera above a flat world: x to the right, y up, z ahead, in metres."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dabnn.data.toy.style import Style

Array = npt.NDArray[np.float32]

NEAR = 1.0
"""Nearest depth in metres that is drawn; nothing may come closer to the camera."""


@dataclass(frozen=True)
class Camera:
    """Where the camera stands and how it sees.

    Attributes:
        height: Height above the ground in metres; the camera stands at (0, height, 0).
        half_view: Tangent of half the horizontal field of view.
        horizon: Row of the horizon in the middle of the image, as a share of the image height.
        roll: Slope of the horizon.
    """

    height: float
    half_view: float
    horizon: float
    roll: float

    @classmethod
    def sample(cls, rng: random.Random, style: Style) -> Camera:
        """Draw a camera of a city."""
        return cls(
            height=rng.uniform(*style.camera_height),
            half_view=rng.uniform(*style.half_view),
            horizon=rng.uniform(*style.horizon),
            roll=rng.uniform(-style.roll, style.roll),
        )

    def sees(self, x: float, z: float, margin: float) -> bool:
        """Return whether something at ``x``, ``z`` that reaches ``margin`` metres to its sides is in view."""
        return abs(x) < self.half_view * z + margin

    def project(self, points: Array, size: tuple[int, int]) -> Array:
        """Return the (x, y) pixel coordinates, (N, 2), of world ``points``, (N, 3)."""
        height, width = size
        focal = width / (2 * self.half_view)
        x, y, z = points.T
        across = x / z
        down = (self.height - y) / z + self.roll * across
        return np.stack((width / 2 + focal * across, self.horizon * height + focal * down), axis=1)

    def rays(self, size: tuple[int, int]) -> tuple[Array, Array]:
        """Return how far the ray of each pixel goes right, (1, W), and down, (H, W), per metre ahead."""
        height, width = size
        focal = width / (2 * self.half_view)
        columns = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5 - width / 2)
        rows = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5 - self.horizon * height)
        across = columns / np.float32(focal)
        return across, rows / np.float32(focal) - np.float32(self.roll) * across
