"""The command line ``dabnn``: demo, train, reproduce, evaluate, predict, export, publish, data, list."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="One network, many datasets: train, evaluate and use dataset-aware networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
