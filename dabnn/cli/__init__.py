"""The command line ``dabnn``; each file holds commands of one kind."""

from dabnn.cli import train, use, data  # noqa: F401, I001 (they register their commands, in this order)
from dabnn.cli.app import app

__all__ = ["app"]
