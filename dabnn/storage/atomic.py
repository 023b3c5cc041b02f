"""Write files and folders so that each is complete or not there at all, and tell whether one was changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
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
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        _settle(temporary, mode)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"could not write {path}: {error}; an older file of that name is untouched"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_atomically(path: Path, parts: Collection[str]) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, which replaces it as a whole when the block ends.

    An exception leaves the old folder. A process killed between the two renames leaves both folders complete
    under other names: `standing` finds the old one, and the next write takes its place.

    Args:
        path: The folder.
        parts: What it may hold by now, see `check_replaceable`.

    Raises:
        CheckpointError: If it holds something else, or cannot be written.
    """
    check_replaceable(path, parts)
    final, old = path.resolve(), _replaced(path)
    temporary = final.parent / f".{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _settle(file, temporary.stat().st_mode)
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(final, old)
        os.replace(temporary, final)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"could not write the folder {path}: {error}; an older one of that name is untouched"
        ) from error
    finally:
        if old.exists() and not final.exists():
            os.replace(old, final)
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(folder: Path, parts: Collection[str]) -> None:
    """Refuse to replace a folder that holds more than what dabnn wrote.

    Args:
        folder: The folder, which may be absent or empty.
        parts: Names of files and folders in it that may be lost.

    Raises:
        CheckpointError: If there is something else, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: choose a folder")
    others = {file.name for file in folder.glob("*")} - set(parts)
    if others:
        raise CheckpointError(
            f"{folder} would be replaced as a whole, but holds {listed(others)}, which dabnn did not write: "
            "choose a new or an empty folder"
        )


def standing(folder: Path) -> Path:
    """Return where a folder is now: elsewhere if a process was killed while it replaced it."""
    old = _replaced(folder)
    return old if old.is_dir() and not folder.exists() else folder


def listed(names: Collection[str], most: int = 8) -> str:
    """Return names as text, sorted, the first few of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(sorted(names)[:most])}{more}"


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


def _replaced(folder: Path) -> Path:
    final = folder.resolve()
    return final.parent / f".{final.name}.old"


def _settle(file: Path, mode: int) -> None:
    """Put a file on the disk, with the rights of other new files: safetensors gives them to the owner only.

    Args:
        file: The file.
        mode: That of a file or folder which was just made.
    """
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.chmod(stat.S_IMODE(mode) & 0o666)
