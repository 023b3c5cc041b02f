"""Decode image files, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage
from PIL.ImageFile import ImageFile

from dabnn.errors import DataError


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Return the RGB pixels (H, W, 3) of an image file, turned upright as its EXIF tag says.

    Raises:
        DataError: If the file is missing, damaged, no image, or has more than 8 bits a channel.
    """
    with opened(path) as image:
        return rgb_pixels(image, str(path))


def size_of_image(path: Path) -> tuple[int, int]:
    """Return height and width of an image file, upright as its EXIF tag says, from its header alone.

    Raises:
        DataError: If the file is missing, damaged or no image.
    """
    with opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def rgb_pixels(image: PILImage.Image, name: str) -> npt.NDArray[np.uint8]:
    """Return the RGB pixels (H, W, 3) of an image, turned upright as its EXIF tag says.

    Args:
        image: The image, perhaps not decoded yet.
        name: What errors call it.

    Raises:
        DataError: If it is damaged, or has more than 8 bits a channel.
    """
    if image.mode.startswith(("I", "F")):  # Pillow would clip to white what is above 255
        raise DataError(
            f"{name} has more than 8 bits a channel (mode {image.mode}): scale it to 8 bits as the training "
            "images were"
        )
    with _readable(name):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """Open an image; whatever decoding raises inside the block becomes a `DataError`."""
    with _readable(str(path)), PILImage.open(path) as image:
        yield image


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is no image {name}") from None
    except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError) as error:
        raise DataError(
            f"{name} cannot be decoded ({error}): it is truncated or damaged; fetch or export it again."
        ) from error
