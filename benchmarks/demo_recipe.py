"""Choose the learning rate of the demo on scenes that the demo never shows.

CDCL and the single-dataset networks train on the demo's own training scenes and are measured on scenes that
the generator draws from another seed. The table has a line per run and city;
``dabnn/experiments/demo/demo.yaml`` takes the rate that is the best of both.

Run: python benchmarks/demo_recipe.py --lr 0.01 --lr 0.005 --lr 0.02
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from learning_rate import RESULTS, measure

from dabnn.data import ToyStreets
from dabnn.experiments.demo.run import demo_config
from dabnn.experiments.demo.toy_folders import write_folder

OTHER_SEED, SCENES = 1, 150


def main(
    lr: Annotated[list[float], typer.Option(help="Learning rate; repeat for several.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/demo_recipe"),
) -> None:
    config = demo_config()
    for name in config.datasets:
        other = ToyStreets(name, "train", seed=OTHER_SEED, length=SCENES)
        write_folder({"train": ToyStreets(name, "train"), "other": other}, out / "data" / name)
    datasets = {name: replace(entry, evaluate="other") for name, entry in config.datasets.items()}
    measure(replace(config, datasets=datasets), lr, out, out / "data", RESULTS / "demo_recipe.csv")


if __name__ == "__main__":
    typer.run(main)
