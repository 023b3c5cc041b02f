"""Training checkpoints: one folder per step, complete or not there at all.

A checkpoint is written beside its final place and renamed into it, so a run killed at any moment leaves the
previous one intact. Weights are safetensors; the rest is read with ``weights_only=True``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

import dabnn
from dabnn.errors import CheckpointError

FORMAT = 1


def save_checkpoint(
    folder: Path, step: int, models: dict[str, nn.Module], state: dict[str, Any], *, keep: int = 2
) -> Path:
    """Write a checkpoint and remove all but the ``keep`` newest.

    Args:
        folder: Folder of all checkpoints of a run; created if absent.
        step: Number of finished steps.
        models: Modules by file name, such as ``{"model": ..., "ema": ...}``.
        state: Everything else, of tensors and plain Python values.
        keep: How many checkpoints stay.

    Returns:
        The folder of the new checkpoint.

    Raises:
        CheckpointError: If it cannot be written, for example because the disk is full; older checkpoints
            stay as they are.
    """
    final = folder / f"step_{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, model in models.items():
            save_model(model, str(temporary / f"{name}.safetensors"))
        torch.save(state, temporary / "state.pt")
        header = {"format": FORMAT, "dabnn": dabnn.__version__, "step": step}
        (temporary / "checkpoint.json").write_text(json.dumps(header))
        _flush(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        last = latest_checkpoint(folder)
        raise CheckpointError(f"could not save step {step} in {folder}: {error}; last complete: {last}") from error
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(path: Path, models: dict[str, nn.Module]) -> dict[str, Any]:
    """Load weights into ``models`` in place and return the rest of the state.

    Raises:
        CheckpointError: If a file is missing, damaged or of a newer format, or does not fit the model.
    """
    try:
        header = json.loads((path / "checkpoint.json").read_text())
        if header["format"] > FORMAT:
            raise CheckpointError(
                f"{path} has format {header['format']}, this dabnn {dabnn.__version__} reads up to {FORMAT}; "
                f"install dabnn {header['dabnn']} or newer"
            )
        state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        for name, model in models.items():
            load_model(model, path / f"{name}.safetensors")
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"cannot load checkpoint {path}: {error}; remove it to fall back to the one before"
        ) from error
    return state


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("step_*/checkpoint.json"))


def _flush(folder: Path) -> None:
    """Make sure the files are on the disk before the rename makes them visible."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
