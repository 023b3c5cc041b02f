"""Choose the learning rate of an experiment on a part of its training data, for every method alike.

The first 80 % of each training split train, the last 20 % measure: files are sorted by name, so the held-out
part is of other drives. The evaluation splits are not read. The table has a line per run and dataset.

Run: python benchmarks/learning_rate.py examples/configs/three_cities.yaml --lr 0.001 --lr 0.002 --steps 400
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dabnn.experiments.config import Config, load_config, with_steps
from dabnn.experiments.results import environment
from dabnn.experiments.run import run_method

RESULTS = Path(__file__).parent / "results"
METHODS = ("cdcl", "single")


def main(
    config: Annotated[Path, typer.Argument(help="YAML file, see examples/configs.")],
    lr: Annotated[list[float], typer.Option(help="Learning rate; repeat for several.")],
    steps: Annotated[int | None, typer.Option(help="Number of steps, instead of the config's.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/learning_rate"),
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
) -> None:
    experiment = load_config(config)
    if steps is not None:
        experiment = with_steps(experiment, steps)
    name = load_config(config).name
    measure(on_train(experiment), lr, out / experiment.name, data, RESULTS / f"{name}_lr.csv")


def on_train(config: Config) -> Config:
    """Return the same experiment on the training splits alone: 80 % of each train, 20 % measure."""
    datasets = {
        name: replace(entry, train=f"{entry.train}[:80%]", evaluate=f"{entry.train}[80%:]")
        for name, entry in config.datasets.items()
    }
    return replace(config, datasets=datasets)


def measure(config: Config, rates: Iterable[float], out: Path, data_dir: Path | None, table: Path) -> None:
    """Train CDCL and the single-dataset networks with every rate, and write one table."""
    rows = [
        (row.method, rate, config.training.batch_size, row.dataset, row.seed, row.steps, f"{row.miou:.2f}")
        for rate in rates
        for method in METHODS
        for row in run_method(with_rate(config, rate), method, 0, out / f"lr{rate}", data_dir=data_dir)
    ]
    with table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("method", "lr", "batch_size", "dataset", "seed", "steps", "miou"))
        writer.writerows(rows)
    table.with_suffix(".json").write_text(json.dumps(environment(), indent=1) + "\n")


def with_rate(config: Config, rate: float) -> Config:
    """Return the same experiment with another learning rate, under a name of its own."""
    return replace(config, name=f"{config.name}_lr{rate}", training=replace(config.training, lr=rate))


if __name__ == "__main__":
    typer.run(main)
