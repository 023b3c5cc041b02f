"""Compare training recipes on a part of the training data, for CDCL and single-dataset networks alike.

Each recipe is a config file. As in `learning_rate.py` 80 % of each training split train and 20 % measure; the
evaluation splits are not read. The table has a line per recipe, method, seed and dataset.

Run: python benchmarks/recipe.py benchmarks/recipes/*.yaml
Writes: its lines into benchmarks/results/recipe.csv, beside those of other calls, and recipe.json (versions,
    commits).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from learning_rate import METHODS, RESULTS, on_train
from merge import merge

from dabnn.experiments.config import load_config
from dabnn.experiments.run import run_method


def main(
    configs: Annotated[list[Path], typer.Argument(help="YAML files, one for each recipe.")],
    seed: Annotated[list[int], typer.Option(help="Seed; repeat for several.")] = [0],  # noqa: B006 (typer)
    method: Annotated[list[str], typer.Option(help="Method; repeat for several.")] = list(METHODS),  # noqa: B006 (typer)
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/recipe"),
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
) -> None:
    for path, number, name in product(configs, seed, method):
        config = on_train(load_config(path))
        folder = out / config.name
        rows = [
            {"recipe": path.stem, **asdict(row), "miou": f"{row.miou:.2f}"}
            for row in run_method(config, name, number, folder, data_dir=data)
        ]
        made = [json.loads(file.read_text())["environment"] for file in sorted(folder.rglob("result.json"))]
        merge(RESULTS / "recipe.csv", rows, ("recipe", "method", "dataset", "seed"), made)


if __name__ == "__main__":
    typer.run(main)
