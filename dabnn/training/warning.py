"""Warnings that point to the user's line."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from dabnn.errors import DabnnWarning

PACKAGE = str(Path(__file__).parents[1]) + os.sep


def warn(message: str) -> None:
    """Issue a `DabnnWarning` for the line outside dabnn that led here, however deep the call."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, DabnnWarning, stacklevel=level)
