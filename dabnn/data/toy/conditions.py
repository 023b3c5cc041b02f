"""Light, weather and camera sensor at the moment a picture is taken."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from dabnn.data.base import Color
from dabnn.data.toy.camera import Array
from dabnn.data.toy.style import Style


@dataclass(frozen=True)
class Conditions:
    """What changes the colours of one picture; colours are (3,) factors, 1 leaves them as they are.

    Attributes:
        ambient: Light from all directions.
        sun: Light from one direction.
        sun_direction: Unit vector towards the sun.
        sky_top: Colour overhead in [0, 255].
        sky_low: Colour at the horizon and of the haze in [0, 255].
        lit: Share of lit windows.
        haze: Extinction in 1 / m.
        rain: Wetness in [0, 1].
        tint: White balance.
        blur: Radius in image heights.
        vignette: How much darker the corners are.
        noise: Standard deviation in grey levels.
    """

    ambient: Array
    sun: Array
    sun_direction: Array
    sky_top: Array
    sky_low: Array
    lit: float
    haze: float
    rain: float
    tint: Array
    blur: float
    vignette: float
    noise: float

    @classmethod
    def sample(cls, rng: random.Random, style: Style) -> Conditions:
        """Draw conditions of a city."""
        daylight = rng.uniform(*style.daylight)
        rain = rng.uniform(0.5, 1.0) if rng.random() < style.rain else 0.0
        strength = rng.uniform(*style.sun_strength) * (1 - rain)
        azimuth = rng.uniform(0, 2 * math.pi)
        direction = np.array((math.cos(azimuth), rng.uniform(*style.sun_height), math.sin(azimuth)))
        return cls(
            ambient=_scaled(style.ambient, daylight * (1 - 0.35 * strength) / 255),
            sun=_scaled(style.sun, daylight * strength / 255),
            sun_direction=(direction / np.linalg.norm(direction)).astype(np.float32),
            sky_top=_scaled(style.sky_top, math.sqrt(daylight) * (1 - 0.2 * rain)),
            sky_low=_scaled(style.sky_low, math.sqrt(daylight) * (1 - 0.15 * rain)),
            lit=style.lit_windows * max(0.0, 1 - daylight),
            haze=rng.uniform(*style.haze) * rng.random() + 0.008 * rain,
            rain=rain,
            tint=np.array([1 + rng.uniform(-1, 1) * style.tint for _ in range(3)], dtype=np.float32),
            blur=rng.uniform(*style.blur) / 1000,
            vignette=rng.uniform(*style.vignette),
            noise=rng.uniform(*style.noise),
        )


def _scaled(color: Color, factor: float) -> Array:
    return np.array(color, dtype=np.float32) * np.float32(factor)
