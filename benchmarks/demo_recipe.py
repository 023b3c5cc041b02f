"""Choose the learning rate of the demo on scenes that the demo never shows.

CDCL and the single-dataset networks train on the demo's own training scenes and are measured on scenes that
the generator draws from another seed. The table has a line per run and city; ``dabnn/experiments/demo.yaml``
takes the rate that is the best of both.

Run: python benchmarks/demo_recipe.py --lr 0.005 --lr 0.01 --lr 0.02
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dabnn.data import ToyStreets
from dabnn.experiments.config import Config
from dabnn.experiments.demo import COMPARED, demo_config
from dabnn.experiments.run import environment, run_method
from dabnn.experiments.toy_folders import write_folder

RESULTS = Path(__file__).parent / "results" / "demo_recipe.csv"
OTHER_SEED, SCENES = 1, 150


def main(
    lr: Annotated[list[float], typer.Option(help="Learning rate; repeat for several.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/demo_recipe"),
) -> None:
    config = demo_config()
    for name in config.datasets:
        other = ToyStreets(name, "train", seed=OTHER_SEED, length=SCENES)
        write_folder({"train": ToyStreets(name, "train"), "other": other}, out / "data" / name)
    rows = [
        (row.method, rate, config.training.batch_size, row.dataset, row.seed, row.steps, f"{row.miou:.2f}")
        for rate in lr
        for name in COMPARED[:2]
        for row in run_method(with_rate(config, rate), name, 0, out / f"lr{rate}", data_dir=out / "data")
    ]
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("method", "lr", "batch_size", "dataset", "seed", "steps", "miou"))
        writer.writerows(rows)
    RESULTS.with_suffix(".json").write_text(json.dumps(environment(), indent=1) + "\n")


def with_rate(config: Config, rate: float) -> Config:
    """Return the demo's experiment with another learning rate, measured on the other scenes."""
    datasets = {name: replace(entry, evaluate="other") for name, entry in config.datasets.items()}
    return replace(
        config,
        name=f"{config.name}_lr{rate}",
        datasets=datasets,
        training=replace(config.training, lr=rate),
    )


if __name__ == "__main__":
    typer.run(main)
