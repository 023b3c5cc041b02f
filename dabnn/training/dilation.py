"""Dilated depthwise convolutions on a CPU, as fast as those without dilation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode


class FastDilation(TorchFunctionMode):
    """A context in which dilated depthwise convolutions of float32 on a CPU are computed by phases.

    oneDNN has no fast kernel for their gradients. With dilation d, pixels whose rows and columns are equal
    modulo d see only each other: the d * d phases of an image are convolved as images of their own, without
    dilation. Results differ by rounding alone; every other call is left as it is.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer one call of a torch function inside the context."""
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    d = dilation[0] if isinstance(dilation, tuple) else dilation
    same = (d * (weight.shape[-1] // 2),) * 2
    depthwise = groups == input.shape[1] == weight.shape[0]
    square = (dilation, stride, padding) == ((d, d), (1, 1), same)
    odd = weight.shape[-2] == weight.shape[-1] and weight.shape[-1] % 2 == 1
    if not (d > 1 and depthwise and square and odd and input.ndim == 4):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if input.device.type != "cpu" or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    height, width = input.shape[-2:]
    phases = _split(pad(input, (0, -width % d, 0, -height % d)), d)
    result = torch.conv2d(phases, weight, bias, padding=weight.shape[-1] // 2, groups=groups)
    return _join(result, d)[..., :height, :width]


def _split(images: Tensor, d: int) -> Tensor:
    """Return the phases (d * d * B, C, H / d, W / d) of images (B, C, H, W), channels last."""
    b, c, h, w = images.shape
    phases = images.permute(0, 2, 3, 1).reshape(b, h // d, d, w // d, d, c).permute(2, 4, 0, 1, 3, 5)
    return phases.reshape(d * d * b, h // d, w // d, c).permute(0, 3, 1, 2)


def _join(phases: Tensor, d: int) -> Tensor:
    """Return the images of phases, the inverse of `_split`."""
    n, c, h, w = phases.shape
    images = phases.permute(0, 2, 3, 1).reshape(d, d, n // (d * d), h, w, c).permute(2, 3, 0, 4, 1, 5)
    return images.reshape(n // (d * d), h * d, w * d, c).permute(0, 3, 1, 2)
