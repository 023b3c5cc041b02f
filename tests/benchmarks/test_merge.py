"""A table that is measured in several calls."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

FILE = Path(__file__).parents[2] / "benchmarks" / "merge.py"
SPEC = importlib.util.spec_from_file_location("merge", FILE)
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)


def line(recipe, miou):
    return {"recipe": recipe, "miou": miou}


def test_a_second_call_replaces_its_own_lines_and_keeps_the_others(tmp_path):
    file = tmp_path / "recipe.csv"
    MODULE.merge(file, [line("base", 1.5), line("dice", 2.5)], ("recipe",), [{"commit": "a"}])
    MODULE.merge(file, [line("ema", 4.5), line("base", 3.5)], ("recipe",), [{"commit": "b"}, {"commit": "a"}])
    with file.open(newline="") as opened:
        rows = [(row["recipe"], row["miou"]) for row in csv.DictReader(opened)]
    assert rows == [("base", "3.5"), ("dice", "2.5"), ("ema", "4.5")]
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record == {"made_by": [{"commit": "a"}, {"commit": "b"}]}
