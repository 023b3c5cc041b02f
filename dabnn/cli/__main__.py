"""``python -m dabnn.cli``."""

from dabnn.cli import app

app()
