"""Tables that grow: new lines replace those that measured the same, all others stay."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def merge(file: Path, rows: Sequence[Mapping[str, object]], keys: Sequence[str], made: Iterable[Any]) -> None:
    """Write rows into a CSV that may be there, and what they were made in into the JSON beside it.

    Args:
        file: The CSV.
        rows: New lines, as column to value; they go where the lines that they replace were, or to the end.
        keys: The columns that say what a line measured.
        made: Environments of the new lines; those that the JSON names stay.
    """
    table: dict[tuple[str, ...], dict[str, str]] = {}
    before = list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []
    for row in [*before, *({key: str(value) for key, value in row.items()} for row in rows)]:
        table[tuple(row[key] for key in keys)] = row
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.values())
    record = file.with_suffix(".json")
    known = json.loads(record.read_text())["made_by"] if record.exists() else []
    environments = [*known, *made]
    different = [one for index, one in enumerate(environments) if one not in environments[:index]]
    record.write_text(json.dumps({"made_by": different}, indent=1) + "\n")
