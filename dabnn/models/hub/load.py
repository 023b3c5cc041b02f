"""Load a pretrained model by name, from a folder or from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from dabnn._version import __version__
from dabnn.conversion.extract import extract_dataset
from dabnn.errors import CheckpointError
from dabnn.models import registry
from dabnn.models.hub.locate import locate
from dabnn.models.stored.folder import CONFIG, load_pretrained, read_config
from dabnn.models.stored.info import ModelInfo
from dabnn.models.stored.replace import replace_datasets


def from_pretrained(
    name: str | Path,
    *,
    dataset: str | int | None = None,
    dataset_names: Sequence[str] | None = None,
    num_classes: Sequence[int] | None = None,
) -> nn.Module:
    """Return a pretrained model in eval mode, on the CPU.

    Args:
        name: A name or alias of `dabnn.list_models`; a folder of `dabnn.save_pretrained`, or of a finished
            ``dabnn train``; or a repository of the Hugging Face Hub as ``org/name``, ``org/name@revision``
            or ``hf-hub:org/name``. What was downloaded before is not downloaded again, and is found without
            a network.
        dataset: Return the plain model of this dataset, as `dabnn.extract_dataset` does.
        dataset_names: Have these datasets instead. One that the model knows, with the same number of classes,
            stays as it is; the norms of others start as the average over all, their classifiers anew.
        num_classes: Number of classes of each of ``dataset_names``; left out, those that the model knows
            them with, or that their shared classifier has.

    Raises:
        UnknownModelError: No model has that name.
        HubError: The Hub cannot be reached, has no such repository, or does not give access to it.
        CheckpointError: A folder or a file is missing, was changed, is damaged or of a newer schema, or there
            are pickles only.
        ValueError: Names and numbers of classes do not fit.
    """
    folder = locate(str(name))
    entry = registry.find_entry(str(name))
    if entry is not None and entry.sha256 != read_config(folder).sha256:
        raise CheckpointError(f"{folder} holds other weights than this dabnn {__version__} knows as {name}")
    model = load_pretrained(folder)
    if dataset_names is not None or num_classes is not None:
        replace_datasets(model, dataset_names or (), num_classes)
    return model if dataset is None else extract_dataset(model, dataset).eval()


def get_pretrained_cfg(name: str | Path) -> ModelInfo:
    """Return what is known of a pretrained model, without loading its weights.

    Args:
        name: As for `from_pretrained`, or a name whose weights are not there yet.

    Raises:
        UnknownModelError: No model has that name.
        HubError: The Hub cannot be reached, has no such repository, or does not give access to it.
        CheckpointError: There is no model of dabnn, or its config is damaged or of a newer schema.
    """
    entry = registry.find_entry(str(name))
    if entry is not None and not entry.pretrained:
        return entry.describe()
    return read_config(locate(str(name), [CONFIG]))
