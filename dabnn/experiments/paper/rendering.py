"""A table of the paper as Markdown: what was measured, and beside it what the paper has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from dabnn.experiments.comparison import OURS, Comparison, markdown
from dabnn.experiments.config import Config
from dabnn.experiments.paper.tables import Table
from dabnn.experiments.results import Row


def compare(table: Table, config: Config, rows: Sequence[Row]) -> list[Comparison]:
    """Return a comparison of the lines as they are, and one of the recalibrated lines if there are any."""
    names = list(config.datasets)
    titles = {line.key(names): line.title(names) for line in table.lines}
    comparisons = []
    for _, lines in groupby(table.lines, key=lambda line: line.recalibrate):
        keys = {line.key(names): line.method for line in lines}
        (ours,) = (key for key, method in keys.items() if method == OURS)
        chosen = tuple(row for row in rows if row.method in keys)
        comparisons.append(Comparison(chosen, ours, titles, frozenset(config.held_out)))
    return comparisons


def beside_paper(table: Table, config: Config, rows: Sequence[Row]) -> str:
    """Return the Markdown table of measured rows: lines, paired differences, and the paper's numbers of both.

    Args:
        table: The table.
        config: The experiment that was measured.
        rows: Its results.
    """
    names = list(config.datasets)
    paper = {line.key(names): line.paper for line in table.lines}
    columns = [f"paper: {name}" for name in table.columns or table.datasets] if any(paper.values()) else []
    header: list[str] = []
    lines: list[list[str]] = []
    differences: list[list[str]] = []
    for comparison in compare(table, config, rows):
        header, methods, gains = comparison.table()
        lines += [
            line + _cells(paper[key], columns) for key, line in zip(comparison.methods, methods, strict=True)
        ]
        differences += [
            line + _cells(_minus(paper[comparison.ours], paper[key]), columns, "+")
            for key, line in zip(comparison.others, gains, strict=True)
        ]
    return markdown([*header, *columns], [*lines, *differences])


def _minus(ours: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(ours, other, strict=True)] if other else []


def _cells(numbers: Sequence[float], columns: Sequence[str], sign: str = "") -> list[str]:
    return [f"{number:{sign}.2f}" for number in numbers] or [""] * len(columns)
