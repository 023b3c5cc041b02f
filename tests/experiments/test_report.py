from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from dabnn.data import TOY_DATASETS
from dabnn.experiments.comparison import Comparison
from dabnn.experiments.demo.run import DemoResult
from dabnn.experiments.results import Row


class Page(HTMLParser):
    """The sources, table cells and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.fixture(scope="module")
def text(tiny_demo: DemoResult) -> str:
    return tiny_demo.report.read_text(encoding="utf-8")


def test_the_report_needs_nothing_but_itself(text: str) -> None:
    page = Page(text)

    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"<script|<link|@import|url\(", text)


def test_the_report_shows_curves_and_three_scenes_of_each_dataset(text: str) -> None:
    sources = Page(text).sources

    assert sum(source.startswith("data:image/svg") for source in sources) == len(TOY_DATASETS)
    assert sum(source.startswith("data:image/png") for source in sources) == len(TOY_DATASETS) * 3 * 4


def test_the_report_has_numbers_findings_and_versions(text: str, tiny_demo: DemoResult) -> None:
    assert all(sentence in text for sentence in tiny_demo.findings)
    cells = Page(text).cells
    assert {"CDCL", "Single-dataset", "Shared BN", "CDCL minus Single-dataset"} <= set(cells)
    assert {f"{row.miou:.1f}" for row in tiny_demo.rows} <= set(cells)
    assert "10 steps" in text
    assert "torch 2." in text
    assert "commit " in text


def compare(ours: list[list[float]], theirs: list[list[float]]) -> Comparison:
    """Results of CDCL and single-dataset networks, a list of two datasets for each seed."""
    rows = [
        Row(method, dataset, seed, 5, miou)
        for method, table in (("cdcl", ours), ("single", theirs))
        for seed, line in enumerate(table)
        for dataset, miou in zip("ab", line, strict=True)
    ]
    return Comparison(tuple(rows))


def test_differences_are_paired_by_seed() -> None:
    comparison = compare([[10, 20], [14, 24]], [[9, 21], [11, 23]])

    assert comparison.gain("single", "a") == [1, 3]
    assert comparison.gain("single", "b") == [-1, 1]
    assert comparison.gain("single") == [0, 2]
    (line,) = comparison.table()[2]
    assert [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in line] == [
        "CDCL minus Single-dataset",
        "+2.0 ± 1.4",
        "+0.0 ± 1.4",
        "+1.0 ± 1.4",
    ]


def test_findings_say_so_when_cdcl_is_worse() -> None:
    sentence, trust = compare([[10, 20]], [[13, 20]]).findings()

    assert sentence == (
        "CDCL against Single-dataset: 15.0 against 16.5 % mIoU on the mean over the datasets. "
        "CDCL is 1.5 points worse: 3.0 points worse on a, even on b."
    )
    assert "one seed" in trust


def test_findings_count_the_seeds() -> None:
    *_, trust = compare([[10, 20], [14, 24]], [[9, 20], [15, 25]]).findings()

    assert trust.startswith("By seed, CDCL is above Single-dataset in 1 of 2")
