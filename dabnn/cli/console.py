"""What the commands share: how they print, how they fail, and options of several of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dabnn.errors import DabnnError

console = Console()

Out = Annotated[Path, typer.Option(help="Folder of all runs.")]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder of the datasets; default $DABNN_DATA, or as in the config."),
]
Scale = Annotated[list[float], typer.Option(min=0.05, help="Size of a view; repeat to average.")]
Flip = Annotated[bool, typer.Option(help="Average with the mirror image.")]
Window = Annotated[tuple[int, int] | None, typer.Option(min=1, help="Height and width of windows.")]
SOURCE = "A run, a name of the zoo, a saved folder, or a repository of the Hub."
"""Help of whatever names a model."""


@contextmanager
def readable_errors() -> Iterator[None]:
    """Print errors of the user's files and arguments as one message; let bugs show their traceback."""
    try:
        yield
    except (DabnnError, OSError) as error:  # OSError: a full disk, a folder that is a file, no permission
        console.quiet = False  # whichever process it is
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def say(text: object) -> None:
    """Print a text as it is: no markup, no colours, no line breaks of its own."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(*columns, title=escape(title))
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def print_problems(problems: Sequence[str]) -> None:
    """Print messages a line each, the first twenty of them."""
    for problem in problems[:20]:
        say(problem)
    if len(problems) > 20:
        console.print(f"and {len(problems) - 20} more")
