"""Training checkpoints: one folder per step, complete or not there at all.

A checkpoint is written beside its final place and renamed into it, so a run killed at any moment leaves the
previous one intact. Weights are safetensors; the rest is read with ``weights_only=True``; the checksum of
every file is compared before anything is used.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from dabnn._version import __version__
from dabnn.errors import CheckpointError
from dabnn.storage.atomic import checksum, folder_written_atomically, standing
from dabnn.storage.formats import check_format
from dabnn.storage.tensors import read_safetensors

FORMAT = 1
HEADER = "checkpoint.json"
PARTS = (HEADER, "state.pt", "*.safetensors")
"""What a checkpoint consists of."""
NAME = re.compile(r"\.?step_(\d{8,})(?:\.old)?")
"""Names of checkpoints, and of those whose replacement was interrupted."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is, in the folder of all checkpoints of a run."""
    return folder / f"step_{step:08d}"


def save_checkpoint(
    path: Path, models: Mapping[str, nn.Module], state: dict[str, Any], *, keep: int = 2
) -> None:
    """Write a checkpoint and remove all but the ``keep`` newest beside it.

    Args:
        path: Its folder, see `checkpoint_path`; one that is there already is replaced.
        models: Modules by file name, such as ``{"model": ..., "ema": ...}``.
        state: Everything else, of tensors and plain Python values.
        keep: How many checkpoints stay, this one included.

    Raises:
        CheckpointError: If it cannot be written, for example because the disk is full; older checkpoints
            stay as they are.
    """
    try:
        with folder_written_atomically(path, PARTS) as folder:
            _write(folder, models, state)
    except Exception as error:
        # On a full disk torch's own error, from closing the file, hides the cause.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(
            f"could not save {path}: {cause}; last complete: {latest_checkpoint(path.parent)}"
        ) from error
    others = [other for other in _checkpoints(path.parent) if other != path]
    for old in others[: len(others) + 1 - keep]:
        shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a run's folder of checkpoints, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def read_state(path: Path) -> dict[str, Any]:
    """Return what `save_checkpoint` was given as ``state``, after checking that all files are intact.

    Raises:
        CheckpointError: If a file is missing, damaged or of a newer format.
    """
    try:
        header = json.loads((path / HEADER).read_text())
        check_format(path, header["format"], FORMAT, header["dabnn"])
        for name, expected in header["sha256"].items():
            if checksum(path / name) != expected:
                raise ValueError(f"{name} was changed or cut off after it was written")
        state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {error}; remove its folder to fall back to the one before"
        ) from error
    return state


def load_weights(path: Path, models: Mapping[str, nn.Module]) -> None:
    """Load the weights of a checkpoint into ``models``, in place, once all of them are seen to fit.

    Raises:
        CheckpointError: If the checkpoint lacks a module or does not fit one; nothing was loaded then.
    """
    weights = {name: _read_weights(path / f"{name}.safetensors", model) for name, model in models.items()}
    for name, model in models.items():
        model.load_state_dict(weights[name])


def _read_weights(file: Path, model: nn.Module) -> dict[str, Tensor]:
    """Return a state dict for ``model``; a tensor with several names is in the file under one of them."""
    if not file.exists():
        raise CheckpointError(f"{file.parent} holds no {file.name}; resume with the settings of that run")
    own, saved = model.state_dict(), read_safetensors(file)
    unfit = [key for key in sorted({*own, *saved}) if _shape(own.get(key)) != _shape(saved.get(key))]
    if unfit:
        raise CheckpointError(
            f"{file} does not fit the model, first at {unfit[0]!r}: it was saved for another architecture, "
            "number of classes or datasets"
        )
    return saved


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _write(folder: Path, models: Mapping[str, nn.Module], state: dict[str, Any]) -> None:
    for name, model in models.items():
        save_model(model, str(folder / f"{name}.safetensors"))
    torch.save(state, folder / "state.pt")
    torch.load(folder / "state.pt", weights_only=True, mmap=True)  # fail now rather than on resume
    sums = {file.name: checksum(file) for file in folder.iterdir()}
    header = {"format": FORMAT, "dabnn": __version__, "sha256": sums}
    (folder / HEADER).write_text(json.dumps(header))


def _checkpoints(folder: Path) -> list[Path]:
    """Return complete checkpoints, oldest first; only names that dabnn writes count."""
    steps = {int(match[1]) for path in folder.glob("*") if (match := NAME.fullmatch(path.name))}
    found = [standing(checkpoint_path(folder, step)) for step in sorted(steps)]
    return [path for path in found if (path / HEADER).is_file()]
