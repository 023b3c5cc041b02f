"""The pages of the repository: their code blocks, and what stands before them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "docs", "examples", "benchmarks", "dabnn/models/weights/*")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md"))
TARGETS = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
NOTE = re.compile(r"<!-- (setup|printed)(?:: (.+?))? -->")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        language: What stands behind the fence.
        text: Its lines.
        line: Number of lines of the page before them.
        notes: The comments between it and the text before, by keyword.
    """

    language: str
    text: str
    line: int
    notes: Mapping[str, str]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page, in order."""
    notes: dict[str, str] = {}
    for token in _tokens(page):
        if token.type == "html_block":
            notes |= dict(NOTE.findall(token.content))
        elif token.type == "fence" and token.map is not None:
            yield Block(token.info, token.content, token.map[0] + 1, notes)
            notes = {}
        else:
            notes = {}


def spans(page: Path) -> Iterator[str]:
    """Yield what is set as code inside the text of a page."""
    for token in _tokens(page):
        yield from (child.content for child in token.children or () if child.type == "code_inline")


def page_id(page: Path) -> str:
    """Return what a test calls a page."""
    return str(page.relative_to(ROOT))


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
