"""The code blocks of a page run, from the first to the last, in a folder with the photo street.jpg.

What a block needs besides, such as images, is named by a comment on the page, ``<!-- setup: NAME -->``: a
fixture of ``conftest.py`` beside this file, which returns names for the block. ``<!-- printed -->`` before a
block of text says that the block before printed it. Trainings are cut, whatever the page says: ``max_steps``
is 2, ``epochs`` is 1, and a toy city has eight scenes a split.
"""

from __future__ import annotations

import re

import pytest
import yaml
from pages import PAGES, Block, blocks, page_id

from dabnn.experiments.config import parse_config

SHORT = {"max_steps": 2, "epochs": 1}
LENGTH = re.compile(r"\b(max_steps|epochs)=[\d_]+")
SHAPE = re.compile(r"^\s*(\w+) = .*# \((\w+(?:, \w+)+)\)", re.MULTILINE)


def pages_with(language):
    return [page for page in PAGES if any(block.language == language for block in blocks(page))]


def run(block: Block, page, names) -> None:
    """Run a block; a traceback shows the lines of the page, and shapes in comments must be right."""
    code = LENGTH.sub(lambda match: f"{match[1]}={SHORT[match[1]]}", block.text)
    exec(compile("\n" * block.line + code, page, "exec"), names)
    for name, shape in SHAPE.findall(block.text):
        said, actual = shape.split(", "), map(str, names[name].shape)
        assert all(a == b or a.isalpha() for a, b in zip(said, actual, strict=True)), (name, shape)


# Of the Hub's client, when it sends a large file.
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
@pytest.mark.usefixtures("_reader")
@pytest.mark.parametrize("page", pages_with("python"), ids=page_id)
def test_the_python_of_a_page_runs(page, request, capsys):
    names, printed = {}, ""
    for block in blocks(page):
        if block.language == "python":
            for setup in block.notes.get("setup", "").split():
                names |= request.getfixturevalue(setup)
            run(block, page, names)
            printed = capsys.readouterr().out
        elif "printed" in block.notes:
            assert block.text in printed


@pytest.mark.parametrize("page", pages_with("yaml"), ids=page_id)
def test_the_configs_of_a_page_are_what_dabnn_train_takes(page):
    for block in blocks(page):
        if block.language == "yaml":
            parse_config({"name": "of_a_part", **yaml.safe_load(block.text)})
