"""From an image of any kind to the input of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dabnn.conversion.attached import attached_info, attached_normalisation
from dabnn.data.images import read_image, rgb_pixels
from dabnn.errors import ConfigError, DataError
from dabnn.layers.surgery import device_of
from dabnn.models.stored.info import IMAGENET_MEAN, IMAGENET_STD, ModelInfo
from dabnn.selection import DatasetKey, find_selection


def preprocess(model: nn.Module, image: Any, *, dataset: DatasetKey | None = None) -> Tensor:
    """Return an image as a normalised batch (1, 3, H, W) on the device of a model.

    Args:
        model: A model of `dabnn.from_pretrained`, or taken out of one, whose mean and standard deviation are
            used; for others those of ImageNet are.
        image: Path of an image file; PIL image; uint8 array (H, W, 3); or tensor (3, H, W), uint8 or float in
            [0, 1]. RGB.
        dataset: Scale the image, in proportion, to the height of the images of this dataset that the model
            was trained on, if that is known: things have the size then that the network knows them at. Left
            out, the size is kept, since the datasets of a model differ in it, and logits shall fit the image.

    Raises:
        DataError: If the image cannot be read, or is none of these.
        ConfigError: If ``dataset`` is given for a model that was not loaded by dabnn.
        UnknownDatasetError: If the model does not know the dataset.
        NotDatasetAwareError: If ``dataset`` is given for a plain model.
    """
    height = None if dataset is None else _height_of(model, dataset)
    mean, std = attached_normalisation(model) or (IMAGENET_MEAN, IMAGENET_STD)
    pixels = _pixels(image)
    pixels = pixels.to(device_of(model), torch.float32) / (1 if pixels.is_floating_point() else 255)
    batch = ((pixels - _column(mean, pixels)) / _column(std, pixels))[None]
    return batch if height is None else scale_to_height(batch, height)


def scale_to_height(images: Tensor, height: int) -> Tensor:
    """Return images (B, C, H, W) at another height and, in proportion, width."""
    before, width = images.shape[-2:]
    if height == before:
        return images
    size = (height, max(1, round(width * height / before)))
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def _height_of(model: nn.Module, dataset: DatasetKey) -> int | None:
    """Return the height of the images of a dataset, if it is known."""
    selection = find_selection(model)
    name = selection.names[selection.index(dataset)]
    info: ModelInfo | None = attached_info(model)
    if info is None:
        raise ConfigError(
            f"the size of the images of {name!r} is not known: load the model with dabnn.from_pretrained, or "
            "leave dataset out"
        )
    known = info.datasets.get(name)  # a dataset may have been added since
    return None if known is None or known.size is None else known.size[0]


def _pixels(image: Any) -> Tensor:
    """Return RGB (3, H, W), uint8 in [0, 255] or float in [0, 1]."""
    if isinstance(image, str | Path):
        return torch.from_numpy(read_image(Path(image))).permute(2, 0, 1)
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3 or not (_is_byte(image) or image.is_floating_point()):
            kind = f"{tuple(image.shape)} of {image.dtype}"
            raise DataError(f"a tensor must be (3, H, W), uint8 or float, got {kind}")
        return image
    array = rgb_pixels(image, "the image") if isinstance(image, Image) else np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise DataError(f"an image must be (H, W, 3) of uint8, got {array.shape} of {array.dtype}")
    return torch.tensor(array).permute(2, 0, 1)


def _is_byte(image: Tensor) -> bool:
    return image.dtype == torch.uint8


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)[:, None, None]
