"""Decode image files, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from PIL import ImageOps
from PIL.ImageFile import ImageFile

from dabnn.errors import DataError


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Return the RGB pixels (H, W, 3) of an image file, turned upright as its EXIF tag says.

    Raises:
        DataError: If the file is missing, damaged, no image, or has more than 8 bits a channel.
    """
    with opened(path) as image:
        if image.mode.startswith(("I", "F")):  # Pillow would clip to white what is above 255
            raise DataError(
                f"{path} has more than 8 bits a channel (mode {image.mode}): scale it to 8 bits as the "
                "training images were"
            )
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """Open an image; whatever decoding raises inside the block becomes a `DataError`."""
    try:
        with PILImage.open(path) as image:
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is no image {path}") from None
    except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be decoded ({error}): it is truncated or damaged; fetch or export it again."
        ) from error
