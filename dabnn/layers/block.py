"""The paper's Dataset-Aware Block, for networks that are built from scratch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from dabnn.layers.batch_norm import DatasetAwareBatchNorm
from dabnn.selection import DatasetSelection


class DatasetAwareBlock(nn.Module):
    """Shared convolution, dataset-aware batch norm, activation (Section 3.2, Figure 2).

    Example:
        >>> import torch, dabnn
        >>> selection = dabnn.DatasetSelection(["cityscapes", "camvid"])
        >>> net = torch.nn.Sequential(
        ...     dabnn.DatasetAwareBlock(3, 16, selection=selection, stride=2),
        ...     dabnn.DatasetAwareBlock(16, 32, selection=selection),
        ... )
        >>> with dabnn.use_dataset(net, "camvid"):
        ...     net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 32, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        selection: DatasetSelection,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        conv_layer: Callable[..., nn.Module] = nn.Conv2d,
        norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        """Build the block; all blocks of a network take the same selection.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            kernel_size: Odd size of the kernel; the input is padded so that stride 1 keeps its size.
            selection: The dataset selection shared by the network.
            stride: Stride of the convolution.
            dilation: Dilation of the convolution.
            groups: Groups of the convolution.
            conv_layer: Convolution without bias; `torch.nn.Conv1d` and `torch.nn.Conv3d` work too.
            norm_layer: Batch norm that matches the convolution's dimension.
            act_layer: Activation.
        """
        super().__init__()
        self.conv = conv_layer(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.bn = DatasetAwareBatchNorm.from_norm(norm_layer(out_channels), selection)
        self.act = act_layer()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, ...) to (B, out_channels, ...) with the active dataset's statistics."""
        return self.act(self.bn(self.conv(x)))
