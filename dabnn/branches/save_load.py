"""One dataset's part of a network as a small file: its norms, their statistics and its classifier."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dabnn._version import __version__
from dabnn.branches.add_remove import add_dataset
from dabnn.conversion.classifiers import check_classifier
from dabnn.errors import CheckpointError
from dabnn.layers import DatasetAwareHead
from dabnn.layers.switch import named_switches
from dabnn.selection import DatasetKey, find_selection, unwrap
from dabnn.storage.atomic import checksum, folder_written_atomically, standing
from dabnn.storage.formats import check_format

FORMAT = 1
WEIGHTS, HEADER = "branch.safetensors", "branch.json"


def save_dataset(model: nn.Module, dataset: DatasetKey, path: str | Path) -> None:
    """Write the branch of one dataset to a folder; the model is not changed.

    Args:
        model: A converted model; wrappers are looked through.
        dataset: Name or index of the dataset.
        path: Folder of ``branch.safetensors``, with the keys of the plain model, and ``branch.json``;
            created if absent. A branch that is there is replaced.

    Raises:
        UnknownDatasetError: If the model does not know the dataset.
        CheckpointError: If the files cannot be written, or the folder holds others; nothing was changed then.
        NotDatasetAwareError: If the model was not converted.
    """
    selection = find_selection(model)
    index = selection.index(dataset)
    path = Path(path)
    tensors = {
        key: tensor.detach().clone().contiguous() for key, tensor in _branch_state(model, index).items()
    }
    header = {
        "format": FORMAT,
        "dabnn": __version__,
        "dataset": selection.names[index],
        "base": fingerprint(model),
    }
    with folder_written_atomically(path, (WEIGHTS, HEADER)) as folder:
        save_file(tensors, folder / WEIGHTS)
        header["sha256"] = checksum(folder / WEIGHTS)
        (folder / HEADER).write_text(json.dumps(header, indent=1) + "\n")


def load_dataset(model: nn.Module, path: str | Path) -> str:
    """Load a branch that `save_dataset` wrote, in place: a new dataset, or the one of the same name.

    Args:
        model: A converted model whose shared weights are those that the branch was trained with (up to
            half precision); wrappers are looked through.
        path: The folder.

    Returns:
        The name of the dataset.

    Raises:
        CheckpointError: If a file is missing, damaged or of a newer format, or the branch belongs to another
            model or other shared weights; nothing was changed then.
        ClassifierNotFoundError: If the dataset is new and its classifier is no linear or convolution layer:
            add the dataset with a ``head_factory`` first.
        NotDatasetAwareError: If the model was not converted.
    """
    selection = find_selection(model)
    path = standing(Path(path))
    header, tensors = _read(path)
    own = fingerprint(model)
    if header["base"] != own:
        raise CheckpointError(
            f"{path} was trained with other shared weights (fingerprint {header['base'][:12]}, the model has "
            f"{own[:12]}): load the model that it was saved from first"
        )
    name: str = header["dataset"]
    known = name in selection.names
    _check_fit(model, selection.index(name) if known else None, tensors, path)
    if not known:
        widths = {tensors[f"{site}.weight"].shape[0] for site in _heads(model)}
        if len(widths) > 1:
            raise CheckpointError(
                f"{path}: its classifiers have {sorted(widths)} classes; add the dataset first"
            )
        add_dataset(model, name, num_classes=widths.pop() if widths else None)
    state = _branch_state(model, selection.index(name))
    with torch.no_grad():
        for key, tensor in state.items():
            tensor.copy_(tensors[key])
    return name


def fingerprint(model: nn.Module) -> str:
    """Return a digest of the weights that all datasets share, equal before and after storage in fp16."""
    private = {id(t) for _, s in named_switches(unwrap(model)) for b in s.branches for t in s.private(b)}
    digest = hashlib.sha256()
    for key, tensor in sorted(unwrap(model).state_dict(keep_vars=True).items()):
        if isinstance(tensor, Tensor) and id(tensor) not in private and tensor.is_floating_point():
            digest.update(f"{key} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _branch_state(model: nn.Module, index: int) -> dict[str, Tensor]:
    """Parameters and buffers of one dataset, themselves, by their names in the plain model."""
    state = {}
    for path, switch in named_switches(unwrap(model)):
        branch = switch.branches[index]
        private = {id(tensor) for tensor in switch.private(branch)}
        for key, tensor in branch.state_dict(keep_vars=True).items():
            if id(tensor) in private:
                state[".".join(filter(None, (path, key)))] = tensor
    return state


def _heads(model: nn.Module) -> dict[str, DatasetAwareHead]:
    return {path: s for path, s in named_switches(unwrap(model)) if isinstance(s, DatasetAwareHead)}


def _check_fit(model: nn.Module, index: int | None, tensors: dict[str, Tensor], path: Path) -> None:
    """Compare with the branch to overwrite, or with the first one but for the width of its classifiers."""
    expected = {key: tuple(tensor.shape) for key, tensor in _branch_state(model, index or 0).items()}
    if index is None:
        for site, switch in _heads(model).items():
            head = switch.branches[0]
            width = tensors.get(f"{site}.weight", torch.empty(0)).shape[0]
            check_classifier(site, head, [max(width, 1)])
            for key in head.state_dict():
                expected[f"{site}.{key}"] = (width, *expected[f"{site}.{key}"][1:])
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    unfit = [key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]
    if unfit:
        raise CheckpointError(
            f"{path} does not fit the model at {len(unfit)} places, first {unfit[0]!r}: "
            f"{found.get(unfit[0], 'missing')} in the file, {expected.get(unfit[0], 'missing')} in the model"
        )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        header: dict[str, Any] = json.loads((path / HEADER).read_text())
        check_format(path, header["format"], FORMAT, header["dabnn"])
        if checksum(path / WEIGHTS) != header["sha256"]:
            raise ValueError(f"{WEIGHTS} was changed or cut off after it was written")
        for key in ("dataset", "base"):
            if not isinstance(header[key], str):
                raise ValueError(f"{key} must be text")
        return header, load_file(path / WEIGHTS)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} holds no saved dataset: {error.filename} is missing") from error
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); copy it again") from error
