"""What may import what: a room imports from rooms below it, and only applications import the public face.

Imports under ``TYPE_CHECKING`` and inside functions count too: they tie two files together all the same. The
same table, for people, is in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dabnn"

# From the ground up; rooms of one line do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("_version",),
    ("errors", "schema"),
    ("batch", "selection", "storage"),
    ("layers",),
    ("conversion",),
    ("branches",),
    ("data",),
    ("evaluation",),
    ("models", "training"),
    ("deploy",),
    ("dabnn", "plan", "export"),  # the public face, dabnn/__init__.py, and two earlier names of parts of it
    ("experiments",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
CORE = ("_version", "errors", "batch", "selection", "storage", "layers", "conversion", "branches")
"""Rooms that need torch and safetensors alone."""
HEAVY = {
    "accelerate",
    "huggingface_hub",
    "matplotlib",
    "pydantic",
    "rich",
    "segmentation_models_pytorch",
    "timm",
    "torchmetrics",
    "torchvision",
    "typer",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def room_of(module: str) -> str:
    """The room of "dabnn.layers.switch": its folder or file below the package, "dabnn" for the face."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "dabnn"


@cache
def imports_of(file: Path) -> tuple[tuple[int, str], ...]:
    """Line and full name of all that a file imports, wherever in it."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: an import relative to its file"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found += [(node.lineno, name if name in MODULES else str(node.module)) for name in names]
    return tuple(found)


def own_imports(file: Path) -> Iterator[tuple[int, str]]:
    return ((line, name) for line, name in imports_of(file) if name in MODULES)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_point_down(file: Path) -> None:
    own = room_of(module_of(file))
    assert own in LEVEL, f"{own} is on no floor: add it to FLOORS"
    wrong = [
        f"{file}:{line}: {own} imports {name}"
        for line, name in own_imports(file)
        if room_of(name) != own and LEVEL[room_of(name)] >= LEVEL[own]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", CORE)
def test_the_core_needs_torch_and_safetensors_alone(room: str) -> None:
    files = [file for file in FILES if room_of(module_of(file)) == room]
    heavy = [
        f"{f}:{line}: {name}" for f in files for line, name in imports_of(f) if name.split(".")[0] in HEAVY
    ]
    assert files
    assert not heavy, "\n".join(heavy)


def test_no_file_imports_itself_by_way_of_others() -> None:
    arrows = {name: {other for _, other in own_imports(file)} - {name} for name, file in MODULES.items()}
    circles = []
    for start in arrows:
        seen: set[str] = set()
        waiting = list(arrows[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += arrows[name]
        if start in seen:
            circles.append(start)
    assert not circles


def test_files_are_short_and_few_lie_at_the_top() -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert not [f"{file}: {length}" for file, length in lengths.items() if length > 400]
    assert median(lengths.values()) <= 130
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_contributing_shows_the_same_floors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## Architecture")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    shown = [tuple(re.findall(r"`([\w.]+?)(?:/|\.py)?`", row)) for row in rows]
    assert shown == [tuple(rooms) for rooms in reversed(FLOORS)]
