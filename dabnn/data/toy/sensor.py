"""The camera behind the lens: film, blur, vignette, rain drops and noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from dabnn.data.toy.camera import Array
from dabnn.data.toy.scene import Scene

GRAY = np.full((3, 3), 1 / 3)
"""Matrix that takes a colour to its gray."""


def expose(scene: Scene, color: Array) -> npt.NDArray[np.uint8]:
    """Turn rendered colours, (3, H, W), into a picture of the same shape in [0, 255]."""
    conditions, saturation = scene.conditions, scene.style.saturation
    height, width = color.shape[1:]
    film = (saturation * np.eye(3) + (1 - saturation) * GRAY) * conditions.tint[:, None]
    pixels = (film.astype(np.float32) @ color.reshape(3, -1)).reshape(color.shape)
    pixels = _blur(pixels, conditions.blur * height)
    pixels *= _vignette(conditions.vignette, height, width)
    rng = np.random.Generator(np.random.PCG64(scene.seed))
    if conditions.rain:
        pixels += _drops(rng, height, width) * np.float32(60 * conditions.rain)
    pixels += _grain(rng, height, width) * np.float32(conditions.noise)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _blur(color: Array, radius: float) -> Array:
    planes = np.clip(color, 0, 255).astype(np.uint8)
    box = ImageFilter.BoxBlur(radius)
    return np.stack([np.asarray(Image.fromarray(plane).filter(box)) for plane in planes]).astype(np.float32)


def _vignette(strength: float, height: int, width: int) -> Array:
    x = np.linspace(-1, 1, width, dtype=np.float32) ** 2
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    return 1 - np.float32(strength / 2) * (x + y)


def _drops(rng: np.random.Generator, height: int, width: int) -> Array:
    """Return falling drops, (height, width), in [0, 1]."""
    drops = (rng.random((height, width), dtype=np.float32) > 0.985).astype(np.float32)
    length = max(2, height // 20)
    return sum((np.roll(drops, k, axis=0) for k in range(length)), np.zeros_like(drops)) / np.float32(length)


def _grain(rng: np.random.Generator, height: int, width: int) -> Array:
    """Return noise, (3, height, width), of mean 0 and deviation 1, partly common to the channels."""
    raw = np.frombuffer(rng.bytes(4 * height * width), dtype=np.int8).astype(np.int16)
    raw = raw.reshape(4, height, width)
    return (raw[:3] + raw[3]) * np.float32(1 / 104.5)
