"""What stands in the repository for its host and for builders of the documentation names what is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from pages import ROOT, TARGETS, page_id

WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
FORMS = [ROOT / ".github" / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "new_model.yml")]
SETTINGS = [FORMS[0].with_name("config.yml"), ROOT / ".github" / "dependabot.yml", ROOT / ".readthedocs.yaml"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(path: Path) -> dict:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def matrix(job: dict) -> dict[str, list[str]]:
    return job.get("strategy", {}).get("matrix", {})


def made(job: dict) -> set[str]:
    """The targets of make that a job runs, with those of its matrix."""
    commands = "\n".join(step.get("run", "") for step in job["steps"])
    for name, values in matrix(job).items():
        command = f"make ${{{{ matrix.{name} }}}}"
        commands = commands.replace(command, "\n".join(f"make {value}" for value in values))
    return set(re.findall(r"\bmake (\S+)", commands))


@pytest.mark.parametrize("path", [*WORKFLOWS, *FORMS, *SETTINGS], ids=page_id)
def test_a_file_for_the_host_can_be_read(path):
    assert read(path)


@pytest.mark.parametrize("path", WORKFLOWS, ids=page_id)
def test_workflows_run_targets_of_the_makefile(path):
    targets = [made(job) for job in read(path)["jobs"].values()]
    assert all(targets)
    assert set().union(*targets) <= TARGETS


def test_the_continuous_integration_runs_all_that_a_contributor_runs():
    here = re.findall(r"^make (\S+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    jobs = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"].values()
    assert here
    assert set(here) <= set().union(*map(made, jobs))


@pytest.mark.parametrize("path", WORKFLOWS, ids=page_id)
def test_workflows_may_read_only_end_and_use_pinned_actions(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 360
        for action in (step["uses"] for step in job["steps"] if "uses" in step):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)


def test_every_python_that_the_package_names_is_tested():
    jobs = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"].values()
    tested = {version for job in jobs for version in matrix(job).get("python", ())}
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text]
    assert set(named) <= tested
    assert PROJECT["requires-python"].removeprefix(">=") in tested


@pytest.mark.parametrize("path", FORMS, ids=page_id)
def test_an_issue_form_asks_for_the_plan_of_the_conversion(path):
    form = read(path)
    assert form["name"]
    assert form["description"]
    asked = {field["id"]: field["attributes"] for field in form["body"] if field["type"] != "markdown"}
    assert all(attributes["label"] for attributes in asked.values())
    assert "dabnn.plan_conversion" in asked["plan"]["description"]


def test_the_documentation_is_built_from_what_is_there():
    settings = read(ROOT / ".readthedocs.yaml")
    assert (ROOT / settings["sphinx"]["configuration"]).is_file()
    for way in settings["python"]["install"]:
        assert set(way["extra_requirements"]) <= PROJECT["optional-dependencies"].keys()
