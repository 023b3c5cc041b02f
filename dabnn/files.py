"""Write files so that each is complete or not there at all, and tell whether one was changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dabnn.errors import CheckpointError


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what was written there becomes ``path`` when the block ends.

    An exception or a killed process leaves the old file, if there was one.

    Raises:
        CheckpointError: If the file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"could not write {path}: {error}; an older file of that name is untouched"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return all tensors of a file that safetensors' ``save_model`` wrote, those with two names twice.

    Raises:
        OSError: If it cannot be read.
        SafetensorError: If it is damaged.
    """
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
        # A tensor with two names is stored once, its other name in the metadata.
        return tensors | {n: tensors[o] for n, o in (stored.metadata() or {}).items() if o in tensors}


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
