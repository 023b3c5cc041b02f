"""Every example runs, and shows what it says: ten lines of difference, one feature per file."""

from __future__ import annotations

import difflib
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest

import dabnn
from dabnn.data import ToyStreets

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py")) + sorted(EXAMPLES.glob("by_feature/*.py"))
MARKS = ("# New code #", "# End of new code #")


def changed_lines(before: Path, after: Path) -> list[str]:
    """Code lines of ``after`` that are not in ``before``, ignoring indentation."""
    lines = [
        [line.strip() for line in path.read_text().split('"""', 2)[2].splitlines()]
        for path in (before, after)
    ]
    return [line[2:] for line in difflib.ndiff(*lines) if line.startswith("+ ") and line[2:]]


@pytest.mark.parametrize(
    "script",
    # Half precision takes minutes on a processor that does not have it.
    [
        pytest.param(p, marks=pytest.mark.slow if p.stem == "strong_recipe" else (), id=p.stem)
        for p in SCRIPTS
    ],
)
def test_example_runs(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if script.stem != "classify":  # which draws what it needs; the others evaluate on all that there is
        monkeypatch.setattr(dabnn.data, "ToyStreets", partial(ToyStreets, length=16))
    monkeypatch.setattr(sys, "argv", [script.name, "--steps", "2"])
    runpy.run_path(str(script), run_name="__main__")
    output = capsys.readouterr().out
    assert "mIoU" in output or "accuracy" in output


def test_plain_torch_becomes_dataset_aware_in_a_few_lines():
    changed = changed_lines(EXAMPLES / "train_torch.py", EXAMPLES / "train_dabnn.py")
    assert len(changed) <= 20, changed


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("by_feature/*.py")), ids=lambda path: path.stem)
def test_feature_examples_differ_from_the_base_in_marked_places_only(script):
    base = {line.strip() for line in (EXAMPLES / "base_example.py").read_text().splitlines()}
    inside, unmarked = False, []
    for line in (line.strip() for line in script.read_text().split('"""', 2)[2].splitlines()):
        if line in MARKS:
            inside = line == MARKS[0]
        elif not inside and line not in base and not line.startswith(("import ", "from ")):
            unmarked.append(line)
    assert not unmarked
