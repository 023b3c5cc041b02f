"""Dataset-aware head: one classifier per dataset, each with its own classes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dabnn.layers.switch import DatasetSwitch


class DatasetAwareHead(DatasetSwitch):
    """N classifiers behind one switch (the paper's dataset-specific classifiers, Section 3.2).

    The classifiers may have different numbers of classes: no label space is merged or mapped.
    """

    branch_list: ClassVar[str] = "heads"

    def _join(self, outputs: list[Tensor]) -> Tensor:
        """Concatenate logits (n_i, classes_i, ...) after padding the class dimension with NaN.

        The padding is sliced away after the forward. NaN makes any layer that mixes channels after the
        classifier visible, where zeros would give silently wrong logits.
        """
        width = max(output.shape[1] for output in outputs)
        return torch.cat([_pad_channels(output, width) for output in outputs])


def _pad_channels(x: Tensor, width: int) -> Tensor:
    padding = [0, 0] * (x.dim() - 2) + [0, width - x.shape[1]]
    return F.pad(x, padding, value=float("nan"))
