"""One call for a batch with images of several datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dabnn.errors import DataError
from dabnn.selection import DatasetKey, DatasetSelection, find_selection, use_dataset


def forward_mixed(
    model: nn.Module, images: Tensor, ids: Sequence[DatasetKey] | Tensor
) -> dict[str, tuple[Tensor, Any]]:
    """Forward the images of each dataset under its own branch: one plain forward per dataset present.

    Args:
        model: A converted model, in the mode and on the device that the caller chose.
        images: Batch (B, ...).
        ids: Name or index of the dataset of each image, or an integer tensor (B,) of indices.

    Returns:
        For every dataset present, in branch order: the positions of its images in the batch (int64, on the
        device of ``images``) and the model's output for them.

    Raises:
        DataError: If there is not one id for each image.
        UnknownDatasetError: If the model does not know an id.
        NotDatasetAwareError: If the model was not converted.
    """
    selection = find_selection(model)
    if len(ids) != len(images):
        raise DataError(f"{len(ids)} dataset ids were given for {len(images)} images; give one for each")
    outputs = {}
    for name, listed in positions_by_dataset(ids, selection).items():
        positions = torch.tensor(listed, device=images.device)
        with use_dataset(model, name):
            outputs[name] = positions, model(images[positions])
    return outputs


def positions_by_dataset(
    ids: Sequence[DatasetKey] | Tensor, selection: DatasetSelection
) -> dict[str, list[int]]:
    """Return where in a batch the images of each dataset are; datasets in branch order, those present only.

    Args:
        ids: Name or index of the dataset of each image, or an integer tensor (B,) of indices.
        selection: Knows the datasets.

    Raises:
        UnknownDatasetError: If it does not know an id.
    """
    listed = ids.tolist() if isinstance(ids, Tensor) else ids
    # Numbers of NumPy are no int.
    indices = [selection.index(d.item() if hasattr(d, "item") else d) for d in listed]
    return {
        selection.names[index]: [k for k, other in enumerate(indices) if other == index]
        for index in sorted(set(indices))
    }
