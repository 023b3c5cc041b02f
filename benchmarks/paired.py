"""Ratios of two things measured in turns in one process, so that a noisy machine disturbs both alike."""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dabnn.experiments.results import environment

RESULTS = Path(__file__).parent / "results"


def ratios(first: Callable[[], object], second: Callable[[], object], pairs: int) -> list[float]:
    """Return time of ``first`` / time of ``second``, after two calls of each to warm up."""
    for _ in range(2):
        first(), second()
    found = []
    for i in range(pairs):  # alternate who goes first
        if i % 2:
            b, a = seconds(second), seconds(first)
        else:
            a, b = seconds(first), seconds(second)
        found.append(a / b)
    return found


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def row(measure: str, values: Sequence[float]) -> dict[str, object]:
    """Return one line of a table: the median of the values and their quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {
        "measure": measure,
        "median": round(middle, 4),
        "lower_quartile": round(low, 4),
        "upper_quartile": round(high, 4),
        "pairs": len(values),
    }


def write(name: str, rows: Sequence[dict[str, object]], settings: dict[str, object], folder: Path) -> None:
    """Write and print a table, with versions, commit and settings beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    facts = environment() | {"threads": torch.get_num_threads()} | settings
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    for line in rows:
        print(line)
