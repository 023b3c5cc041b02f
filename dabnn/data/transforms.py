"""The paper's augmentation (section 4.1), and the plain transform of evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.tv_tensors import Image, Mask

from dabnn.batch import IGNORE_INDEX


class RandomScale(v2.Transform):
    """Resize image and mask by one random factor of their size, keeping the aspect ratio.

    Images are resized bilinearly with antialiasing, masks take the nearest value.

    Args:
        scale: Range ``(low, high)`` of the factor, drawn uniformly.

    Raises:
        ValueError: The range is empty or not positive.
    """

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high, not {scale}")
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor from torch's generator and return the new size."""
        factor = torch.empty(()).uniform_(*self.scale).item()
        return {"size": [max(1, round(factor * length)) for length in v2.query_size(flat_inputs)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one image or mask to ``params["size"]``."""
        if isinstance(inpt, Mask):
            # Not resize(mask): some torchvision versions round down there, half a pixel off the image.
            resized = v2.functional.resize_image(
                inpt.as_subclass(Tensor)[None], params["size"], interpolation=InterpolationMode.NEAREST_EXACT
            )
            return Mask(resized[0])
        return v2.functional.resize(inpt, params["size"], antialias=True)


def train_transform(
    crop: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 2.1),
    flip: float = 0.5,
    jitter: float = 0.0,
    mean: Sequence[float],
    std: Sequence[float],
    ignore_index: int = IGNORE_INDEX,
) -> v2.Transform:
    """Return the training augmentation of the paper: random scale, random crop, random flip, normalise.

    Random colours, which the paper does not have, are optional.

    Where the scaled image is smaller than the crop it is padded, the image with the mean colour (about 0
    after normalisation) and the mask with ``ignore_index``. All draws are from torch's global generator.

    Args:
        crop: Height and width of the result, in pixels (paper: 512 x 512).
        scale: Range of the random resize factor.
        flip: Probability of a horizontal flip, in [0, 1].
        jitter: Most that brightness, contrast and saturation change, as a share of their own, in [0, 1].
        mean: Mean of each RGB channel of images in [0, 1].
        std: Standard deviation of each RGB channel of images in [0, 1].
        ignore_index: Mask value of padding.

    Returns:
        A transform from a `dabnn.data.base.Sample` to ``image`` float32 (3, crop) and ``mask`` int64 (crop).
    """
    fill = {Image: [round(255 * channel) for channel in mean], Mask: ignore_index}
    return v2.Compose(
        [
            RandomScale(scale),
            v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(flip),
            *([v2.ColorJitter(jitter, jitter, jitter)] if jitter else []),
            *_to_tensors(mean, std),
        ]
    )


def eval_transform(*, mean: Sequence[float], std: Sequence[float]) -> v2.Transform:
    """Return the transform of evaluation: normalise at the size of the file.

    Args:
        mean: Mean of each RGB channel of images in [0, 1].
        std: Standard deviation of each RGB channel of images in [0, 1].

    Returns:
        A transform from a `dabnn.data.base.Sample` to ``image`` float32 (3, H, W) and ``mask`` int64 (H, W).
    """
    return v2.Compose(_to_tensors(mean, std))


def _to_tensors(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    return [
        v2.ToDtype({Image: torch.float32, Mask: torch.int64, "others": None}, scale=True),
        v2.Normalize(mean=list(mean), std=list(std)),
        v2.ToPureTensor(),
    ]
