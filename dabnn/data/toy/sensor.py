"""The camera behind the lens: film, blur, vignette, rain drops and noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from dabnn.data.toy.camera import Array
from dabnn.data.toy.scene import Scene

GRAY = np.full((3, 3), 1 / 3)


def expose(scene: Scene, color: Array) -> npt.NDArray[np.uint8]:
    """Turn rendered colours, (H, W, 3), into a picture of the same shape in [0, 255]."""
    conditions, saturation = scene.conditions, scene.style.saturation
    height, width = color.shape[:2]
    film = (saturation * np.eye(3) + (1 - saturation) * GRAY) * conditions.tint
    pixels = _blur(color @ film.astype(np.float32), conditions.blur * height)
    pixels *= _vignette(conditions.vignette, height, width)[..., None]
    rng = np.random.Generator(np.random.PCG64(scene.seed))
    if conditions.rain:
        pixels += _drops(rng, height, width)[..., None] * np.float32(60 * conditions.rain)
    pixels += _grain(rng, height, width) * np.float32(conditions.noise)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _blur(color: Array, radius: float) -> Array:
    picture = Image.fromarray(np.clip(color, 0, 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.BoxBlur(radius))).astype(np.float32)


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
    """Return noise, (height, width, 3), of mean 0 and deviation 1, partly common to the channels."""
    raw = np.frombuffer(rng.bytes(height * width * 4), dtype=np.int8).reshape(height, width, 4).astype(np.float32)
    return (raw[..., :3] + raw[..., 3:]) * np.float32(1 / 104.5)
