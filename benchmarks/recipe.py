"""Compare training recipes on a part of the training data, for CDCL and single-dataset networks alike.

Each recipe is a config file. As in `learning_rate.py` 80 % of each training split train and 20 % measure; the
evaluation splits are not read. The table has a line per recipe, method, seed and dataset.

Run: python benchmarks/recipe.py benchmarks/recipes/*.yaml
Writes: benchmarks/results/recipe.csv and recipe.json (versions, commit).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated

import typer
from learning_rate import METHODS, RESULTS, on_train

from dabnn.experiments.config import load_config
from dabnn.experiments.run import run_method


def main(
    configs: Annotated[list[Path], typer.Argument(help="YAML files, one for each recipe.")],
    seed: Annotated[list[int], typer.Option(help="Seed; repeat for several.")] = [0],  # noqa: B006 (typer)
    method: Annotated[list[str], typer.Option(help="Method; repeat for several.")] = list(METHODS),  # noqa: B006 (typer)
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/recipe"),
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
) -> None:
    with (RESULTS / "recipe.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("recipe", "method", "dataset", "seed", "steps", "miou"))
        for path in configs:
            config = on_train(load_config(path))
            for number in seed:
                for name in method:
                    rows = run_method(config, name, number, out / config.name, data_dir=data)
                    results = [(row.dataset, row.seed, row.steps, f"{row.miou:.2f}") for row in rows]
                    writer.writerows((path.stem, name, *result) for result in results)
                    file.flush()
    made = [json.loads(file.read_text())["environment"] for file in sorted(out.rglob("result.json"))]
    different = [made[i] for i in range(len(made)) if made[i] not in made[:i]]
    (RESULTS / "recipe.json").write_text(json.dumps({"trained_by": different}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
