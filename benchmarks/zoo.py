"""Measure networks of the zoo, and the single-dataset networks of the same recipe, on the evaluation splits.

Each network as it was trained; with its parameters rounded to half precision, as the package stores them; and
averaged over three sizes of the image (1, 1.25 and 1.5) and their mirror images.

Run: python benchmarks/zoo.py RUN ... --name zoo_lite0
    (RUN: folders such as runs/zoo_lite0/cdcl-seed0 and runs/zoo_lite0/single-seed0)
Writes: its lines into benchmarks/results/NAME.csv (mIoU in percent), beside those of other calls, and
    NAME.json (versions, commits).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from merge import merge

from dabnn.evaluation import predict_logits, predict_scales
from dabnn.evaluation.inference import Predict
from dabnn.experiments.build import build_dataset, data_directory
from dabnn.experiments.results import environment
from dabnn.experiments.saved import SavedRun, load_run
from dabnn.experiments.zero_shot import evaluate_branch

RESULTS = Path(__file__).parent / "results"
SCALES = (1.0, 1.25, 1.5)
VIEWS: dict[str, Predict] = {"1": predict_logits, "6": partial(predict_scales, scales=SCALES, flip=True)}
MEASURED = (("float32", "1"), ("float16", "1"), ("float32", "6"))


def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished trainings.")],
    name: Annotated[str, typer.Option(help="Name of the table.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
) -> None:
    for run, (weights, views) in product(runs, MEASURED):
        miou = dict(measure(run, weights, views, data))
        values = {dataset: f"{value:.2f}" for dataset, value in miou.items()}
        line = {"network": run.name, "parameters": weights, "views": views, **values}
        line |= {"mean": f"{fmean(miou.values()):.2f}"}
        print(line)
        made = [json.loads((part / "result.json").read_text())["environment"] for part in parts(run)]
        merge(RESULTS / f"{name}.csv", [line], ("network", "parameters", "views"), [environment(), *made])


def parts(run: Path) -> list[Path]:
    """Return the folders of the networks of a method: one for all datasets, or one for each."""
    return (
        [run] if (run / "result.json").exists() else sorted(file.parent for file in run.glob("*/result.json"))
    )


def measure(run: Path, weights: str, views: str, data: Path | None) -> Iterator[tuple[str, float]]:
    """Yield each dataset with its mIoU in percent."""
    found = {name: saved for saved in map(load_run, parts(run)) for name in saved.datasets}
    for name in next(iter(found.values())).config.datasets:
        saved = found[name]
        if weights == "float16":
            round_parameters(saved)
        dataset = build_dataset(saved.config, name, train=False, data_dir=data_directory(saved.config, data))
        yield name, evaluate_branch(saved, name, dataset, predict=VIEWS[views]).miou


def round_parameters(saved: SavedRun) -> None:
    """Round parameters, in place, as `dabnn.save_pretrained` does with ``half=True``."""
    for parameter in saved.model.parameters():
        parameter.data = parameter.data.half().float()


if __name__ == "__main__":
    typer.run(main)
