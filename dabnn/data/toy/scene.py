"""A whole scene: street, camera, light, and every prop and shadow in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dabnn.data.toy.buildings import lots, skyline
from dabnn.data.toy.camera import Camera
from dabnn.data.toy.conditions import Conditions
from dabnn.data.toy.people import bicycle, cyclist, person
from dabnn.data.toy.roadside import board, lamp, sign, tree
from dabnn.data.toy.shapes import Prop
from dabnn.data.toy.street import CROSSING_REACH, Street
from dabnn.data.toy.style import Style
from dabnn.data.toy.vehicles import vehicle

NEAREST_VEHICLE = 6.5
"""Least depth in metres of the middle of a vehicle, so that the longest stays before the camera."""

Maker = Callable[[random.Random, Style, float, float], Prop]


@dataclass(frozen=True)
class Scene:
    """Everything that is in one picture, whatever its resolution.

    Attributes:
        style: The city.
        camera: The camera.
        street: The plan of the street.
        conditions: Light, weather and sensor.
        props: What stands on the ground, from far to near.
        wear: How much of the lane markings is gone, in [0, 1].
        seed: Seed of clouds and noise.
    """

    style: Style
    camera: Camera
    street: Street
    conditions: Conditions
    props: list[Prop]
    wear: float
    seed: int

    @classmethod
    def sample(cls, rng: random.Random, style: Style) -> Scene:
        """Draw a scene of a city; it depends on nothing but ``rng``, which is advanced."""
        camera = Camera.sample(rng, style)
        street = Street.sample(rng, style)
        conditions = Conditions.sample(rng, style)
        props = [*skyline(rng, style)]
        for side in (-1, 1):
            props += lots(rng, style, street, camera, side)
            props += _kerb(rng, style, street, camera, side)
        props += _traffic(rng, style, street, camera)
        props += _people(rng, style, street, camera)
        props.sort(key=lambda prop: -prop.depth)
        wear = rng.uniform(*style.marking_wear)
        return cls(style, camera, street, conditions, props, wear, rng.getrandbits(32))


def _kerb(rng: random.Random, style: Style, street: Street, camera: Camera, side: int) -> Iterator[Prop]:
    """Yield trees, lamps, signs, boards and parked vehicles along one side."""
    beside = street.half_width + min(0.6, 0.3 + street.verges[side > 0])
    for z in _row(rng, street, style.tree_gap, 70):
        x = street.middle(z) + side * (beside + 0.4)
        if camera.sees(x, z, 4.0):
            yield tree(rng, style, x, z)
    for z in _row(rng, street, style.pole_gap, 80):
        x = street.middle(z) + side * beside
        if camera.sees(x, z, 2.5):
            yield lamp(rng, style, x, z, -side)
    for make, mean, u in ((sign, style.signs, beside), (board, style.boards, street.edge(side) + 0.5)):
        for _ in range(_count(rng, mean / 2)):
            z = _ahead(rng, 6, 45)
            x = street.middle(z) + side * u
            if not street.in_crossing(z) and camera.sees(x, z, 2.0):
                yield make(rng, style, x, z)
    if street.parking > 1:
        for z in _row(rng, street, style.parked_gap, 70):
            x = street.middle(z) + side * (street.half_width - 1.0)
            if z > NEAREST_VEHICLE and camera.sees(x, z, 2.5):
                yield vehicle(rng, style, x, z, street.slope(z), side != street.drive_side)


def _traffic(rng: random.Random, style: Style, street: Street, camera: Camera) -> Iterator[Prop]:
    """Yield moving vehicles in every lane; those of the camera's own direction show their rear."""
    for direction in (-1, 1):
        for lane in range(street.lanes):
            u = direction * street.drive_side * (lane + 0.5) * street.lane_width
            z = NEAREST_VEHICLE + rng.uniform(0, style.traffic_gap[1])
            while z < 70:
                x = street.middle(z) + u + rng.uniform(-0.3, 0.3)
                if camera.sees(x, z, 2.5):
                    yield vehicle(rng, style, x, z, street.slope(z), direction < 0)
                z += max(6.0, rng.uniform(*style.traffic_gap)) * (1 + z / 60)


def _people(rng: random.Random, style: Style, street: Street, camera: Camera) -> Iterator[Prop]:
    """Yield persons on the sidewalks, on the zebra crossing and on the road, cyclists and parked bicycles."""
    spots: list[tuple[Maker, float, float]] = []
    inner = street.half_width + 0.3
    for _ in range(_count(rng, style.pedestrians)):
        side, z = rng.choice((-1, 1)), _ahead(rng, 5, 50)
        u = side * rng.uniform(inner, max(inner + 0.5, street.edge(side) - 0.4))
        spots.append((person, u, z))
        if rng.random() < 0.35:
            spots.append((person, u + rng.uniform(0.5, 0.8), z + 0.2))
    for _ in range(_count(rng, style.jaywalkers)):
        spots.append((person, rng.uniform(-1, 1) * street.half_width, _ahead(rng, 7, 40)))
    if street.crossing > 12:
        z = street.crossing - street.crossing_half_width - CROSSING_REACH / 2
        spots += [(person, rng.uniform(-1, 1) * street.half_width, z) for _ in range(_count(rng, 1.5))]
    lane = street.half_width - (street.parking if street.parking > 1 else 0.0)
    for _ in range(_count(rng, style.cyclists)):
        spots.append((cyclist, rng.choice((-1, 1)) * (lane - rng.uniform(0.4, 1.2)), _ahead(rng, 6, 40)))
    for _ in range(_count(rng, style.parked_bicycles)):
        spots.append((bicycle, rng.choice((-1, 1)) * (inner + 0.4), _ahead(rng, 5, 25)))
    for make, u, z in spots:
        x = street.middle(z) + u
        if camera.sees(x, z, 1.0):
            yield make(rng, style, x, z)


def _row(rng: random.Random, street: Street, gap: tuple[float, float], end: float) -> Iterator[float]:
    """Yield depths up to ``end``, ever farther apart, that are not in the intersection."""
    z = rng.uniform(3, 3 + gap[1])
    while z < end:
        if not street.in_crossing(z, 2.0):
            yield z
        z += max(5.5, rng.uniform(*gap)) * (1 + z / 60)


def _ahead(rng: random.Random, near: float, far: float) -> float:
    """Draw a depth, the nearer the likelier."""
    return near + (far - near) * rng.random() ** 1.7


def _count(rng: random.Random, mean: float) -> int:
    """Draw a count between 0 and twice the mean."""
    return int(2 * mean * rng.random() + rng.random())
