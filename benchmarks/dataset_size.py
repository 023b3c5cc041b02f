"""Does what CDCL does for a dataset depend on how many images it has? One dataset is cut, the others stay.

As in `recipe.py` the evaluation splits are not read: of each training split, 80 % train and the last 20 %
measure. Of the cut dataset only the given part of the split trains. It alone gets a single-dataset network.

Run: python benchmarks/dataset_size.py benchmarks/recipes/strong.yaml cityscapes --percent 5 --percent 80
Writes: its lines into benchmarks/results/dataset_size.csv, beside those of other calls, and dataset_size.json
    (versions, commits).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from learning_rate import METHODS, RESULTS, on_train
from merge import merge

from dabnn.experiments.build import build_dataset, data_directory
from dabnn.experiments.config import Config, load_config
from dabnn.experiments.results import read_json
from dabnn.experiments.run import run_method


def main(
    config: Annotated[Path, typer.Argument(help="YAML file of the recipe.")],
    dataset: Annotated[str, typer.Argument(help="The dataset to cut.")],
    percent: Annotated[list[int], typer.Option(help="Part of its training split; repeat for several.")],
    seed: Annotated[list[int], typer.Option(help="Seed; repeat for several.")] = [0],  # noqa: B006 (typer)
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/dataset_size"),
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
) -> None:
    for number, part, method in product(seed, percent, METHODS):
        experiment = cut(load_config(config), dataset, part)
        if method == "single":
            experiment = replace(experiment, datasets={dataset: experiment.datasets[dataset]})
        folder = out / dataset / str(part)
        images = len(
            build_dataset(experiment, dataset, train=True, data_dir=data_directory(experiment, data))
        )
        rows = [
            {"cut": dataset, "images": images, **asdict(row), "miou": f"{row.miou:.2f}"}
            for row in run_method(experiment, method, number, folder, data_dir=data)
        ]
        records = [read_json(file) for file in sorted(folder.rglob("result.json"))]
        made = [record["environment"] for record in records if record is not None]
        merge(RESULTS / "dataset_size.csv", rows, ("cut", "images", "method", "dataset", "seed"), made)


def cut(config: Config, dataset: str, percent: int) -> Config:
    """Return the experiment on the training splits alone, with the first images only of one dataset."""
    whole = on_train(config)
    entry = replace(whole.datasets[dataset], train=f"{config.datasets[dataset].train}[:{percent}%]")
    return replace(whole, datasets={**whole.datasets, dataset: entry})


if __name__ == "__main__":
    typer.run(main)
