"""One call for a batch with images of several datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dabnn.errors import DataError
from dabnn.selection import DatasetKey, find_selection, use_dataset


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
    listed = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    if len(listed) != len(images):
        raise DataError(f"{len(listed)} dataset ids were given for {len(images)} images; give one for each")
    indices = torch.tensor([selection.index(dataset) for dataset in listed], device=images.device)
    outputs = {}
    for index in sorted(set(indices.tolist())):
        positions = (indices == index).nonzero().flatten()
        with use_dataset(model, index):
            outputs[selection.names[index]] = positions, model(images[positions])
    return outputs
