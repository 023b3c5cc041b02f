"""Training checkpoints: one folder per step, complete or not there at all.

A checkpoint is written beside its final place and renamed into it, so a run killed at any moment leaves the
previous one intact. Weights are safetensors; the rest is read with ``weights_only=True``; the checksum of
every file is compared before anything is used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

import dabnn
from dabnn.errors import CheckpointError
from dabnn.storage.atomic import checksum

FORMAT = 1


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
    folder, temporary = path.parent, path.with_name(f".{path.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, model in models.items():
            save_model(model, str(temporary / f"{name}.safetensors"))
        torch.save(state, temporary / "state.pt")
        torch.load(temporary / "state.pt", weights_only=True, mmap=True)  # fail now rather than on resume
        sums = {file.name: checksum(file) for file in temporary.iterdir()}
        header = {"format": FORMAT, "dabnn": dabnn.__version__, "sha256": sums}
        (temporary / "checkpoint.json").write_text(json.dumps(header))
        _flush(temporary)
        _move(temporary, path)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # On a full disk torch's own error, from closing the file, hides the cause.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(
            f"could not save {path}: {cause}; last complete: {latest_checkpoint(folder)}"
        ) from error
    others = [other for other in _checkpoints(folder) if other != path]
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
        header = json.loads((path / "checkpoint.json").read_text())
        if header["format"] > FORMAT:
            raise CheckpointError(
                f"{path} has format {header['format']}, this dabnn {dabnn.__version__} reads up to {FORMAT}; "
                f"install dabnn {header['dabnn']} or newer"
            )
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
    own, saved = model.state_dict(), load_file(file)
    shared = {own[key].data_ptr(): tensor for key, tensor in saved.items() if key in own}
    weights = {key: saved.get(key, shared.get(tensor.data_ptr())) for key, tensor in own.items()}
    missing = [key for key, tensor in weights.items() if tensor is None or tensor.shape != own[key].shape]
    unfit = sorted({*missing, *(saved.keys() - own.keys())})
    if unfit:
        raise CheckpointError(
            f"{file} does not fit the model, first at {unfit[0]!r}: it was saved for another architecture, "
            "number of classes or datasets"
        )
    return {key: tensor for key, tensor in weights.items() if tensor is not None}


def _checkpoints(folder: Path) -> list[Path]:
    """Return complete checkpoints, oldest first; a replaced one counts as older than its replacement."""
    found = {
        path.parent for pattern in ("step_*", "replaced_step_*") for path in folder.glob(f"{pattern}/*.json")
    }
    return sorted(found, key=lambda path: (path.name.rpartition("_")[2], path.name))


def _flush(folder: Path) -> None:
    """Make sure the files are on the disk before the rename makes them visible."""
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _move(temporary: Path, final: Path) -> None:
    """Rename a finished folder into place; at every moment it or the one it replaces is complete."""
    replaced = final.with_name(f"replaced_{final.name}")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(final, replaced)
    os.replace(temporary, final)
    shutil.rmtree(replaced, ignore_errors=True)
