"""Every file of dabnn says its format, so that an older dabnn can tell what it does not know yet."""

from __future__ import annotations

from pathlib import Path

from dabnn._version import __version__
from dabnn.errors import CheckpointError


def check_format(where: str | Path, found: int, newest: int, writer: object) -> None:
    """Check that this version of dabnn knows a format.

    Args:
        where: The file or folder.
        found: Its format.
        newest: The newest format that this version reads.
        writer: The version of dabnn that wrote it.

    Raises:
        CheckpointError: If the format is newer.
    """
    if found > newest:
        raise CheckpointError(
            f"{where} has format {found}, this dabnn {__version__} reads up to {newest}: install dabnn "
            f"{writer} or newer"
        )
