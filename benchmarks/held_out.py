"""Train on a part of the training data, and measure every class on the rest of it.

As in `learning_rate.py` the first 80 % of each training split train, the last 20 % measure, and the
evaluation splits are not read. The table has a line per config, method, seed, dataset and class.

Run: cd benchmarks/held_out
    python ../held_out.py equal.yaml by_classes.yaml by_norms.yaml --method cdcl
    python ../held_out.py equal.yaml low_rate.yaml --method single --dataset cityscapes
Writes: its lines, IoU in percent, into benchmarks/results/held_out.csv, beside those of other calls, and
    held_out.json (versions, commits).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from learning_rate import RESULTS, on_train
from merge import merge

from dabnn.experiments.config import Config, load_config
from dabnn.experiments.results import read_json
from dabnn.experiments.run import run_method, run_with
from dabnn.experiments.saved import RESULT


def main(
    configs: Annotated[list[Path], typer.Argument(help="YAML files.")],
    method: Annotated[list[str], typer.Option(help="Method; repeat for several.")],
    seed: Annotated[list[int], typer.Option(help="Seed; repeat for several.")] = [0],  # noqa: B006 (typer)
    dataset: Annotated[list[str], typer.Option(help="Only these datasets; repeatable.")] = [],  # noqa: B006 (typer)
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/held_out"),
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
) -> None:
    for path, name, number in product(configs, method, seed):
        config = on_train(only(load_config(path), dataset))
        folder = out / config.name
        run_method(config, name, number, folder, data_dir=data)
        for trained in config.datasets:
            record: Any = read_json(run_with(config, name, number, trained, folder).folder / RESULT)
            of = {"config": path.stem, "method": name, "seed": number, "dataset": trained}
            rows = [of | {"class": key, "iou": f"{iou:.2f}"} for key, iou in record["iou"][trained].items()]
            merge(RESULTS / "held_out.csv", rows, [*of, "class"], [record["environment"]])


def only(config: Config, names: list[str]) -> Config:
    """Return the same experiment with some of its datasets, or with all if none is named."""
    return replace(config, datasets={name: config.datasets[name] for name in names or config.datasets})


if __name__ == "__main__":
    typer.run(main)
