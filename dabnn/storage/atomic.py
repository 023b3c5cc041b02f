"""Write files and folders so that each is complete or not there at all, and tell whether one was changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError

from dabnn.errors import CheckpointError, listed


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
        parts: What may be lost of it: names of files and folders, or shell patterns of them.

    Raises:
        CheckpointError: If there is something else, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: choose a folder")
    found = sorted(file.name for file in folder.glob("*"))
    others = [name for name in found if not any(fnmatch(name, part) for part in parts)]
    if others:
        raise CheckpointError(
            f"{folder} would be replaced as a whole, but holds {listed(others)}, which dabnn did not write: "
            "choose a new or an empty folder"
        )


def standing(folder: Path) -> Path:
    """Return where a folder is now: elsewhere if a process was killed while it replaced it."""
    old = _replaced(folder)
    return old if old.is_dir() and not folder.exists() else folder


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
