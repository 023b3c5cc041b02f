"""The demo: CDCL, single-dataset and shared-BN networks on toy street scenes, compared in a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dabnn.data import ToyStreets
from dabnn.experiments.build import build_dataset
from dabnn.experiments.comparison import OURS, Comparison
from dabnn.experiments.config import Config, load_config, with_steps
from dabnn.experiments.demo.toy_folders import write_folder
from dabnn.experiments.methods import METHODS
from dabnn.experiments.report.page import write_report
from dabnn.experiments.report.scenes import SINGLE, write_picture
from dabnn.experiments.results import Row, write_table
from dabnn.experiments.run import Run, run_method, runs_of
from dabnn.experiments.saved import load_model
from dabnn.training import ProgressBar

TITLE = "One network for three street-scene datasets"
COMPARED = (OURS, SINGLE, "shared_bn")


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        rows: mIoU in percent by method, dataset and seed.
        findings: The same in plain words, as printed.
        report: The HTML report.
    """

    rows: tuple[Row, ...]
    findings: tuple[str, ...]
    report: Path


def demo_config(steps: int | None = None) -> Config:
    """Return the experiment of ``demo.yaml`` beside this file, or the same with another number of steps."""
    with as_file(files("dabnn.experiments.demo") / "demo.yaml") as path:
        config = load_config(path)
    return config if steps is None else with_steps(config, steps)


def run_demo(out: Path, *, seeds: Sequence[int] = (0,), steps: int | None = None) -> DemoResult:
    """Train every compared method on the toy cities with the same steps per dataset, and report.

    The scenes are drawn once, into ``out/data``; ``out`` also gets ``report.html``, ``results.csv`` with
    ``results.json`` (versions, commit, configuration) and ``scenes.png``. After an interruption the same
    call goes on where it stopped.

    Args:
        out: Folder of everything that is written; created if absent.
        seeds: Seeds of initialisation, data order and augmentation.
        steps: Steps of every method, instead of the demo's own number.
    """
    start = time.monotonic()
    console = Console()
    config = demo_config(steps)
    runs, data = out / f"{config.training.steps}_steps", out / "data"
    _draw(config, data)
    rows = [
        row
        for seed in seeds
        for method in COMPARED
        for row in _train(config, method, seed, runs, data, console)
    ]
    comparison = Comparison(tuple(rows))
    findings = [*comparison.findings(), _sizes(runs, seeds[0], config)]
    write_table(runs, out / "results.csv", config)
    evaluation = {name: build_dataset(config, name, train=False, data_dir=data) for name in config.datasets}
    write_picture(out / "scenes.png", config, seeds[0], runs, evaluation)
    report = out / "report.html"
    write_report(report, config, runs, comparison, evaluation, title=TITLE, findings=findings)
    _print(console, comparison, findings)
    console.print(f"Report after {time.monotonic() - start:.0f} s: {report}", soft_wrap=True)
    return DemoResult(comparison.rows, tuple(findings), report)


def _draw(config: Config, data: Path) -> None:
    data.mkdir(parents=True, exist_ok=True)
    for name in config.datasets:
        write_folder({split: ToyStreets(name, split) for split in ("train", "val")}, data / name)


def _train(config: Config, method: str, seed: int, runs: Path, data: Path, console: Console) -> list[Row]:
    console.print(f"[bold]{METHODS[method].title}[/], seed {seed}")
    return run_method(config, method, seed, runs, data_dir=data, callbacks=lambda: [ProgressBar()])


def _sizes(runs: Path, seed: int, config: Config) -> str:
    """Say how many parameters all datasets need, with CDCL and with a network each."""
    together, apart = (_millions(runs_of(config, method, seed, runs)) for method in (OURS, SINGLE))
    return f"CDCL has {together:.2f} million parameters, the single-dataset networks {apart:.2f} in total."


def _millions(runs: Sequence[Run]) -> float:
    models = (load_model(run.folder) for run in runs)
    return sum(parameter.numel() for model in models for parameter in model.parameters()) / 1e6


def _print(console: Console, comparison: Comparison, findings: Sequence[str]) -> None:
    header, methods, gains = comparison.table()
    table = Table(title="mIoU % on the evaluation scenes; differences in points")
    for number, column in enumerate(header):
        table.add_column(column, justify="right" if number else "left")
    for line in methods:
        table.add_row(*line)
    table.add_section()
    for line in gains:
        table.add_row(*line)
    console.print(table)
    for sentence in findings:
        console.print(f"- {sentence}", highlight=False)
