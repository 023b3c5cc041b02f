"""The results behind one line of a table: those of its trainings, and what else is measured with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from dabnn.data import LabelMap, load_map
from dabnn.errors import ConfigError
from dabnn.experiments.build import build_dataset, data_directory, space_of
from dabnn.experiments.config import Config
from dabnn.experiments.paper.tables import Line
from dabnn.experiments.results import Row, environment, read_json, write_json
from dabnn.experiments.run import Run, run_with
from dabnn.experiments.saved import load_model
from dabnn.experiments.zero_shot import evaluate_branch
from dabnn.models.stored.folder import WEIGHTS, model_folder
from dabnn.storage.atomic import checksum

MEASURED = "measured"
"""Folder, inside that of a training, of what is measured with it besides its own datasets."""


def measure_line(
    config: Config, line: Line, seed: int, columns: list[str], out: Path, data_dir: Path | None
) -> Iterator[Row]:
    """Yield a row for each column of a line; its trainings must be finished.

    What was measured before is read back from the folder of the training.
    """
    for column in columns:
        branch = _branch(config, line, column)
        run = run_with(config, line.method, seed, branch, out)
        (own,) = (row for row in run.rows() if row.dataset == branch)
        file = measured_file(config, line, seed, column, out)
        miou = own.miou if file is None else _measured(run, file, branch, column, line.recalibrate, data_dir)
        yield Row(line.key(list(config.datasets)), column, seed, own.steps, miou)


def measured_file(config: Config, line: Line, seed: int, column: str, out: Path) -> Path | None:
    """Return the file of what a line measures on a column, if that is more than its training's own result."""
    branch = _branch(config, line, column)
    if branch == column and not line.recalibrate:
        return None
    name = f"{branch}-on-{column}" + ("-recalibrated" if line.recalibrate else "")
    return run_with(config, line.method, seed, branch, out).folder / MEASURED / f"{name}.json"


def check_line(config: Config, line: Line, columns: list[str]) -> None:
    """Raise before any training if a column of a line could not be measured.

    Raises:
        ConfigError: If a held-out split does not say whose branch to use.
        DataError: If there is no label map from the classes of a branch to those of a column.
    """
    for column in columns:
        _between(config, _branch(config, line, column), column)


def _branch(config: Config, line: Line, column: str) -> str:
    if line.branch is not None:
        return list(config.datasets)[line.branch]
    branch = column if column in config.datasets else config.held_out[column].branch
    if branch is None:
        raise ConfigError(f"held_out.{column} of experiment {config.name!r} must say whose branch to use")
    return branch


def _measured(
    run: Run, file: Path, branch: str, column: str, recalibrate: bool, data_dir: Path | None
) -> float:
    config = run.config
    entry = asdict(config.datasets[column] if column in config.datasets else config.held_out[column])
    root = data_directory(config, data_dir)
    dataset = build_dataset(config, column, train=False, data_dir=root)
    of = {
        "weights": checksum(model_folder(run.folder) / WEIGHTS),
        "split": entry,
        "data_dir": str(root.resolve()),
        "images": len(dataset),
    }
    record = read_json(file)
    if record is None or record["of"] != of:
        result = evaluate_branch(
            load_model(run.folder),
            branch,
            dataset,
            label_map=_between(config, branch, column),
            recalibrate=recalibrate,
            batch_size=config.training.batch_size,
        )
        file.parent.mkdir(exist_ok=True)
        record = {"of": of, "environment": environment(), "miou": result.miou, "iou": result.iou}
        write_json(file, record)
    miou: float = record["miou"]
    return miou


def _between(config: Config, branch: str, column: str) -> LabelMap | None:
    source, target = space_of(config, branch), space_of(config, column)
    return None if source == target else load_map(source, target)
