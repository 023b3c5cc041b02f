"""The plan of a street: a curved road with verges and sidewalks, perhaps with an intersection."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TypeVar

from dabnn.data.toy.camera import Array
from dabnn.data.toy.style import Style

CROSSING_REACH = 4.0
"""Distance in metres between the middle of an intersection and the zebra crossings before it."""

Depth = TypeVar("Depth", float, Array)


@dataclass(frozen=True)
class Street:
    """A road along z and what lies beside it; positions across it are called u, negative to the left.

    Attributes:
        offset: x of the road's middle beside the camera.
        yaw: Slope of the road at the camera.
        curvature: Curvature of the road in 1 / m.
        lanes: Number of lanes for each direction.
        lane_width: Width of a lane.
        parking: Width of the parking strip on either side.
        verges: Width of the verge on the left and on the right.
        sidewalks: Width of the sidewalk on the left and on the right.
        drive_side: 1 where traffic keeps to the right, -1 where it keeps to the left.
        crossing: z of the middle of an intersection, negative for none.
        crossing_half_width: Half the width of the crossing road.
        marked: Whether the road has lane markings.
    """

    offset: float
    yaw: float
    curvature: float
    lanes: int
    lane_width: float
    parking: float
    verges: tuple[float, float]
    sidewalks: tuple[float, float]
    drive_side: int
    crossing: float
    crossing_half_width: float
    marked: bool

    @classmethod
    def sample(cls, rng: random.Random, style: Style) -> Street:
        """Draw a street of a city, the camera in one of the lanes of its own direction."""
        lanes = rng.randint(*style.lanes)
        lane_width = rng.uniform(*style.lane_width)
        lane = rng.randint(1, lanes) - 0.5
        curvature = rng.uniform(-1, 1) * style.curvature * rng.random()
        return cls(
            offset=-style.drive_side * lane * lane_width + rng.uniform(-0.4, 0.4),
            yaw=rng.uniform(-1, 1) * style.yaw * rng.random() - 6 * curvature,
            curvature=curvature,
            lanes=lanes,
            lane_width=lane_width,
            parking=rng.choice((0.3, 2.2)),
            verges=(_positive(rng, style.verge), _positive(rng, style.verge)),
            sidewalks=(_positive(rng, style.sidewalk), _positive(rng, style.sidewalk)),
            drive_side=style.drive_side,
            crossing=rng.uniform(12, 45) if rng.random() < style.crossing else -100.0,
            crossing_half_width=rng.uniform(3.0, 5.0),
            marked=rng.random() < style.marking,
        )

    @property
    def half_width(self) -> float:
        """Distance between the middle of the road and its kerb."""
        return self.lanes * self.lane_width + self.parking

    def middle(self, z: Depth) -> Depth:
        """Return the x of the road's middle at depth ``z``."""
        return self.offset + (self.yaw + 0.5 * self.curvature * z) * z

    def slope(self, z: float) -> float:
        """Return the slope dx / dz of the road at depth ``z``."""
        return self.yaw + self.curvature * z

    def edge(self, side: int) -> float:
        """Return the distance |u| of the building line on ``side``, -1 for left and 1 for right."""
        return self.half_width + self.verges[side > 0] + self.sidewalks[side > 0]

    def in_crossing(self, z: float, margin: float = 0.0) -> bool:
        """Return whether depth ``z`` lies within ``margin`` metres of the intersection."""
        return abs(z - self.crossing) < self.crossing_half_width + margin


def _positive(rng: random.Random, bounds: tuple[float, float]) -> float:
    """Draw a width; a range that starts below zero gives no strip at all some of the time."""
    return max(0.0, rng.uniform(*bounds))
