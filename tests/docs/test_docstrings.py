"""What the docstrings and messages of the package say of dabnn is so."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from pages import PAGES, blocks, page_id, spans

import dabnn
from dabnn.cli import app

PACKAGE = Path(dabnn.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAME = re.compile(r"(?<![\w/.-])dabnn(?:\.[a-zA-Z_]\w*)+")
COMMAND = re.compile(r"`dabnn (\w+)")


def source_id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def module_of(path: Path) -> ModuleType:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return importlib.import_module(".".join(parts).removesuffix(".__init__"))


def strings(path: Path) -> Iterator[str]:
    """Yield the docstrings and messages of a source file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def resolve(name: str) -> Any:
    """Return what a dotted name stands for: modules as far as there are any, then attributes.

    Raises:
        AttributeError: There is no such thing.
    """
    found: Any = dabnn
    path = "dabnn"
    for part in name.split(".")[1:]:
        path += f".{part}"
        if isinstance(found, ModuleType) and not hasattr(found, part):
            try:
                importlib.import_module(path)
            except ModuleNotFoundError:
                raise AttributeError(f"there is no {name}") from None
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("path", [p for p in SOURCES if ">>>" in p.read_text()], ids=source_id)
def test_the_examples_of_a_module_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module_of(path))
    assert result.attempted
    assert not result.failed


def test_no_example_is_skipped():
    assert not [source_id(path) for path in SOURCES if re.search(r"#\s*doctest:.*SKIP", path.read_text())]


def test_names_in_docstrings_and_messages_exist():
    for path in SOURCES:
        for name in NAME.findall("\n".join(strings(path))):
            assert resolve(name) is not None, f"{source_id(path)} names {name}"


def test_commands_in_docstrings_and_messages_exist():
    known = typer.main.get_command(app).commands
    for path in SOURCES:
        for name in COMMAND.findall("\n".join(strings(path))):
            assert name in known, f"{source_id(path)} names `dabnn {name}`"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_names_on_a_page_exist(page):
    directives = [block.text for block in blocks(page) if block.language == "{eval-rst}"]
    for name in NAME.findall("\n".join([*spans(page), *directives])):
        assert resolve(name) is not None
