"""One fixed noise picture that all surface patterns are cut from."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from dabnn.data.toy.camera import Array

PERIOD = 256
"""The noise repeats after this many cells."""


@cache
def noise_tile() -> Array:
    """Return read-only noise in [-1, 1] of four octaves, (PERIOD, PERIOD), that tiles seamlessly."""
    rng = np.random.Generator(np.random.PCG64(7))
    total = np.zeros((PERIOD, PERIOD))
    for octave, weight in ((8, 1.0), (32, 0.8), (128, 0.7), (256, 0.5)):
        coarse = rng.random((octave, octave)) * 2 - 1
        total += weight * _enlarge(coarse, PERIOD // octave)
    total /= np.abs(total).max()
    tile = total.astype(np.float32)
    tile.setflags(write=False)
    return tile


def noise(across: Array, along: Array) -> Array:
    """Look up noise in [-1, 1] at coordinates in cells, elementwise."""
    rows = along.astype(np.intp) & (PERIOD - 1)
    columns = across.astype(np.intp) & (PERIOD - 1)
    return noise_tile().take(rows * PERIOD + columns)


def _enlarge(values: npt.NDArray[np.float64], factor: int) -> npt.NDArray[np.float64]:
    """Enlarge a periodic picture by linear interpolation."""
    shares = np.arange(factor) / factor
    for axis in (0, 1):
        following = np.roll(values, -1, axis)
        steps = [values + share * (following - values) for share in shares]
        stacked = np.stack(steps, axis=axis + 1)
        shape = list(values.shape)
        shape[axis] *= factor
        values = stacked.reshape(shape)
    return values
