"""What a network reaches on a dataset, as a table to print and as files to keep."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dabnn.evaluation import SegmentationResult
from dabnn.experiments.comparison import markdown
from dabnn.experiments.results import environment, write_json
from dabnn.storage.atomic import written_atomically

HEADER = ["class", "IoU %"]
COLUMNS = ["dataset", "measure", "class", "percent", "note"]


@dataclass(frozen=True)
class Measured:
    """A result, and what must be known to read it.

    Attributes:
        result: How well predictions agree with the truth.
        unmatched: Classes that no class is mapped to: their IoU is 0, or nan, whatever the network does.
        notes: Sentences that belong below the table.
    """

    result: SegmentationResult
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def table(self) -> list[list[str]]:
        """Return a line per class and two for the means, below `HEADER`."""
        means = {"mean IoU": self.result.miou, "pixel accuracy": self.result.pixel_accuracy}
        return [[name, f"{value:.2f}"] for name, value in [*self.result.iou.items(), *means.items()]]


def write_measured(folder: Path, measured: Mapping[str, Measured], about: Mapping[str, Any]) -> list[Path]:
    """Write results by dataset as ``evaluation.csv`` and ``evaluation.md``; return the files.

    ``evaluation.json`` beside them holds the environment, the notes, and what ``about`` says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, text, made = (folder / f"evaluation.{ending}" for ending in ("csv", "md", "json"))
    with written_atomically(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        lines = (line for name, entry in measured.items() for line in _lines(name, entry))
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *lines])
    with written_atomically(text) as temporary:
        sections = (_section(name, entry) for name, entry in measured.items())
        temporary.write_text("\n".join(sections), encoding="utf-8")
    notes = {name: entry.notes for name, entry in measured.items()}
    write_json(made, {"environment": environment(), **about, "notes": notes})
    return [table, text, made]


def _lines(name: str, entry: Measured) -> Iterator[list[str]]:
    for label, iou in entry.result.iou.items():
        note = "no class is mapped to it" if label in entry.unmatched else ""
        yield [name, "iou", label, f"{iou:.2f}", note]
    yield [name, "miou", "", f"{entry.result.miou:.2f}", ""]
    yield [name, "pixel_accuracy", "", f"{entry.result.pixel_accuracy:.2f}", ""]


def _section(name: str, entry: Measured) -> str:
    return "\n".join([f"# {name}\n", markdown(HEADER, entry.table()), *(f"{note}\n" for note in entry.notes)])
