"""Every number in README and docs is the one in the committed CSV."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load_tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load_tables()


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_page_shows_the_committed_results(page):
    assert tables.fill(page.read_text()) == page.read_text()


@pytest.mark.parametrize("file", sorted(tables.RESULTS.glob("*.csv")), ids=lambda file: file.stem)
def test_results_say_how_they_were_made(file):
    record = file.with_suffix(".json").read_text()
    for key in ("commit", "torch"):
        assert f'"{key}"' in record
