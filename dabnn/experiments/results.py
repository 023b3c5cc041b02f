"""Results of trainings as rows, and the files that hold them."""

from __future__ import annotations

import csv
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dabnn import __version__
from dabnn.errors import ConfigError
from dabnn.experiments.config import Config, parse_config, to_dict
from dabnn.experiments.methods import METHODS
from dabnn.storage.atomic import written_atomically

VERSIONED = ("torch", "torchvision", "timm", "segmentation-models-pytorch")


@dataclass(frozen=True)
class Row:
    """One line of a results table: mIoU in percent on the evaluation split at full image size."""

    method: str
    dataset: str
    seed: int
    steps: int
    miou: float


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of a finished training."""
    return [Row(**row) for row in json.loads((folder / "result.json").read_text())["rows"]]


def write_table(out: Path, path: Path, config: Config) -> list[Row]:
    """Collect the finished trainings of an experiment into one tidy CSV; return its rows.

    A JSON file beside it holds the config and the environments that the results were made in.

    Args:
        out: Folder of the experiment's runs; those of another config are left out.
        path: The CSV file to write.
        config: The experiment.
    """
    records = [record for file in out.rglob("result.json") if (record := read_json(file)) is not None]
    records = [record for record in records if is_of(record["config"], config)]
    methods, datasets = list(METHODS), list(config.datasets)
    rows = sorted(
        (Row(**row) for record in records for row in record["rows"]),
        key=lambda row: (methods.index(row.method), row.seed, datasets.index(row.dataset)),
    )
    write_rows(path, rows, config, [record["environment"] for record in records])
    return rows


def write_rows(
    path: Path, rows: Iterable[Row], config: Config, environments: Iterable[Mapping[str, str]]
) -> None:
    """Write rows as a CSV, and beside it a JSON file with the config and the environments they come from."""
    with written_atomically(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows([row.method, row.dataset, row.seed, row.steps, f"{row.miou:.2f}"] for row in rows)
    different = {json.dumps(environment, sort_keys=True) for environment in environments}
    settings = {key: value for key, value in to_dict(config).items() if key != "data_dir"}
    summary = {"environments": [json.loads(text) for text in sorted(different)], "config": settings}
    write_json(path.with_name(f"{path.name.removesuffix('.csv')}.json"), summary)


def environment() -> dict[str, str]:
    """Return the versions, commit (of a source checkout) and machine that a result is made with."""
    versions = {package: version(package) for package in VERSIONED}
    return {"dabnn": __version__, "commit": _commit(), **versions, "machine": platform.machine()}


def _commit() -> str:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    commit = _git(root, "describe", "--always")
    # Tables that a benchmark writes are no change of what it ran.
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results")
    return f"{commit}-dirty" if changes else commit or "unknown"


def _git(root: Path, *command: str) -> str:
    return subprocess.run(["git", *command], capture_output=True, text=True, cwd=root).stdout.strip()


def read_json(file: Path) -> dict[str, Any] | None:
    """Return what a file holds, or None if there is none or it was torn by something other than dabnn."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    with written_atomically(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def identity(config: Config) -> dict[str, Any]:
    """Return the part of a config that its trainings depend on."""
    return {key: value for key, value in to_dict(config).items() if key not in ("data_dir", "held_out")}


def is_of(stored: dict[str, Any], config: Config) -> bool:
    """Return whether a stored `identity` is that of a config; what it does not say has its default."""
    try:
        return identity(parse_config(stored)) == identity(config)
    except ConfigError:
        return False
