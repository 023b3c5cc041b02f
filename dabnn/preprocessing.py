"""From an image of any kind to the input of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dabnn.data.images import read_image
from dabnn.errors import DataError
from dabnn.extract import INFO, NORMALISATION
from dabnn.models.info import IMAGENET_MEAN, IMAGENET_STD, ModelInfo
from dabnn.selection import unwrap


def preprocess(model: nn.Module, image: Any) -> Tensor:
    """Return an image as a normalised batch (1, 3, H, W) on the device of a model; its size is kept.

    Args:
        model: A model of `dabnn.from_pretrained`, or taken out of one, whose mean and standard deviation are
            used; for others those of ImageNet are.
        image: Path of an image file; PIL image; uint8 array (H, W, 3); or tensor (3, H, W), uint8 or float in
            [0, 1]. RGB.

    Raises:
        DataError: If the image cannot be read, or is none of these.
    """
    known = vars(unwrap(model))
    info: ModelInfo | None = known.get(INFO)
    plain = known.get(NORMALISATION, (IMAGENET_MEAN, IMAGENET_STD))
    mean, std = plain if info is None else (info.mean, info.std)
    pixels = _pixels(image)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    pixels = pixels.to(device, torch.float32) / (1 if pixels.is_floating_point() else 255)
    return ((pixels - _column(mean, pixels)) / _column(std, pixels))[None]


def _pixels(image: Any) -> Tensor:
    """Return RGB (3, H, W), uint8 in [0, 255] or float in [0, 1]."""
    if isinstance(image, str | Path):
        return torch.from_numpy(read_image(Path(image))).permute(2, 0, 1)
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3 or not (_is_byte(image) or image.is_floating_point()):
            kind = f"{tuple(image.shape)} of {image.dtype}"
            raise DataError(f"a tensor must be (3, H, W), uint8 or float, got {kind}")
        return image
    array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise DataError(f"an image must be (H, W, 3) of uint8, got {array.shape} of {array.dtype}")
    return torch.tensor(array).permute(2, 0, 1)


def _is_byte(image: Tensor) -> bool:
    return image.dtype == torch.uint8


def _column(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)[:, None, None]
