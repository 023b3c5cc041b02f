"""The commands on the pages are ones that their programs take; none is executed.

A command of a block is parsed as it is written. Of one in the text, which may be a part, the subcommand, the
options and the files must be there.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from accelerate.commands.launch import launch_command_parser
from pages import PAGES, ROOT, TARGETS, blocks, page_id, spans
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from dabnn.cli import app

SHELL = ("", "bash", "console", "sh")
DABNN = typer.main.get_command(app)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def commands(page: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the commands of a page's blocks, and the folder that each is given in."""
    for block in blocks(page):
        folder = ROOT
        lines = block.text.replace("\\\n", " ").splitlines() if block.language in SHELL else []
        for words in (shlex.split(line.removeprefix("$ "), comments=True) for line in lines):
            if words[0] == "cd":
                folder = folder / words[1]
            else:
                yield folder, words


def phrases(page: Path) -> Iterator[list[str]]:
    """Yield the commands in the text of a page."""
    for words in map(str.split, spans(page)):
        if len(words) > 1 and words[0] in ("dabnn", "make", "python", "pip"):
            yield words


@pytest.fixture(scope="module")
def listed():
    """What `dabnn list` names: methods, tables, readers; a table of two parts has a name for both."""
    words = set(CliRunner().invoke(app, ["list"]).output.split())
    return words | {word.removesuffix("a") for word in words if re.fullmatch(r"table\da", word)}


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=page_id)
def test_the_commands_of_a_page_are_taken(page, listed):
    for folder, words in commands(page):
        if words[0] == "torchrun":
            launched = get_args_parser().parse_args(words[1:])
            words = [launched.training_script, *launched.training_script_args]  # train.py is the reader's
            if not launched.no_python:
                continue
        if words[:2] == ["accelerate", "launch"]:
            launch_command_parser().parse_args(words[2:])
        elif words[0] == "dabnn":
            parse_dabnn(words[1:], listed)
        else:
            check_other(words, folder)


@pytest.mark.parametrize("page", [page for page in PAGES if any(phrases(page))], ids=page_id)
def test_the_commands_in_the_text_of_a_page_are_known(page):
    for words in phrases(page):
        if words[0] != "dabnn":
            check_other(words, ROOT)
            continue
        for alternative in " ".join(words[1:]).split(" | "):
            command, rest = subcommand(alternative.split())
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in rest if word.startswith("--")} <= known, words


def subcommand(words: list[str]) -> tuple[typer.core.TyperCommand | typer.core.TyperGroup, list[str]]:
    """Return the command of dabnn that words begin with, and the other words."""
    command, rest = DABNN, list(words)
    while rest and isinstance(command, typer.core.TyperGroup):
        assert rest[0] in command.commands, f"dabnn has no command {rest[0]}"
        command = command.commands[rest.pop(0)]
    return command, rest


def parse_dabnn(words: list[str], listed: set[str]) -> None:
    """Parse the words after "dabnn" and look up the names among them."""
    command, rest = subcommand(words)
    given = command.make_context(command.name, rest).params
    names = [*given.get("method", ()), *given.get("table", ()), given.get("kind")]
    if words[:2] == ["data", "check"]:
        names.append(given["name"])
    assert {name for name in names if name is not None} <= listed, words
    check_files(words, ROOT, "examples/*")


def check_other(words: list[str], folder: Path) -> None:
    """Check a command of make, python, pip or pre-commit."""
    program, *rest = words
    if program == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS, words
    elif program == "pip":
        assert set(re.findall(r"\[(\w+)\]", " ".join(rest))) <= EXTRAS.keys(), words
    elif rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), words
    elif program == "python":
        check_script(folder / rest[0], rest[1:])
        check_files(rest, folder, "*.yaml")
    else:
        assert words == [".venv/bin/pre-commit", "install"], f"no check of {words}"


def check_script(script: Path, words: list[str]) -> None:
    """Every option of a script stands in it: as a word of argparse, or as a parameter of typer."""
    source = script.read_text()
    for option in (word for word in words if word.startswith("--")):
        parameter = option.removeprefix("--").replace("-", "_")
        assert f'"{option}"' in source or f"\n    {parameter}: Annotated[" in source, (script.name, option)


def check_files(words: list[str], folder: Path, pattern: str) -> None:
    """Those words that are files of the repository exist."""
    for word in words:
        assert (folder / word).is_file() or not Path(word).match(pattern), f"there is no {folder / word}"
