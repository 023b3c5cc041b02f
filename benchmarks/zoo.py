"""Measure networks of the zoo, and the single-dataset networks of the same recipe, on the evaluation splits.

Finished trainings are measured as they were trained; with their parameters rounded to half precision, as the
package stores them; and averaged over three sizes of the image (1, 1.25 and 1.5) and their mirror images.
Networks of the package, by name, are measured as they are stored.

Run: python benchmarks/zoo.py examples/configs/zoo_lite0.yaml runs/zoo_lite0/cdcl-seed0
    python benchmarks/zoo.py examples/configs/zoo_r18.yaml cdcl-pspnet-r18
Writes: its lines, mIoU and IoU in percent, into benchmarks/results/zoo_lite0.csv and zoo_lite0_classes.csv
    (named after the experiment; trained with --steps 2000, zoo_lite0_2000), beside those of other calls;
    versions and commits into the JSON files there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from merge import merge

import dabnn
from dabnn.evaluation import SegmentationResult, predict_logits, predict_scales
from dabnn.evaluation.inference import Predict
from dabnn.experiments.build import build_dataset, data_directory
from dabnn.experiments.config import Config, load_config
from dabnn.experiments.results import environment, read_json
from dabnn.experiments.saved import SavedRun, load_run
from dabnn.experiments.zero_shot import evaluate_branch
from dabnn.models.stored.folder import info_of

RESULTS = Path(__file__).parent / "results"
VIEWS: dict[int, Predict] = {
    1: predict_logits,
    6: partial(predict_scales, scales=(1.0, 1.25, 1.5), flip=True),
}


def main(
    config: Annotated[Path, typer.Argument(help="The YAML file that the networks were trained with.")],
    networks: Annotated[list[str], typer.Argument(help="Folders of finished trainings, or names of models.")],
    views: Annotated[list[int], typer.Option(help="Views to average over: 1 or 6; repeatable.")] = [1, 6],  # noqa: B006 (typer)
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
) -> None:
    experiment = load_config(config)
    for network, view in product(networks, views):
        folders = parts(Path(network))
        for half in halves(stored=not folders, view=view):
            loaded = [load_run(f) for f in folders] if folders else [packaged(network, experiment)]
            results = dict(measure(loaded, half, VIEWS[view], data))
            made = [record["environment"] for f in folders if (record := read_json(f / "result.json"))]
            of = {
                "network": Path(network).name,
                "parameters": "float16" if half else "float32",
                "views": view,
            }
            write(loaded[0].config.name, of, results, [environment(), *made])


def halves(*, stored: bool, view: int) -> list[bool]:
    """Return whether to measure a network in half precision, or in both."""
    if stored:
        return [True]
    return [False, True] if view == 1 else [False]


def parts(run: Path) -> list[Path]:
    """Return the folders of a method's networks: one for all datasets, or one for each; none of a name."""
    whole = [run] if (run / "result.json").exists() else []
    return whole or sorted(file.parent for file in run.glob("*/result.json"))


def packaged(name: str, config: Config) -> SavedRun:
    """Return a model of the package as if it had just been trained."""
    return SavedRun(dabnn.from_pretrained(name), config)


def measure(
    loaded: list[SavedRun], half: bool, predict: Predict, data: Path | None
) -> Iterator[tuple[str, SegmentationResult]]:
    """Yield each dataset with its result."""
    found = {name: saved for saved in loaded for name in info_of(saved.model).datasets}
    for name in loaded[0].config.datasets:
        saved = found[name]
        if half:
            for parameter in saved.model.parameters():
                parameter.data = parameter.data.half().float()
        dataset = build_dataset(saved.config, name, train=False, data_dir=data_directory(saved.config, data))
        yield name, evaluate_branch(saved.model, name, dataset, predict=predict)


def write(name: str, of: dict[str, Any], results: dict[str, SegmentationResult], made: list[Any]) -> None:
    """Add a network's lines to both tables."""
    miou = {dataset: result.miou for dataset, result in results.items()}
    line = of | {key: f"{value:.2f}" for key, value in (miou | {"mean": fmean(miou.values())}).items()}
    print(line)
    merge(RESULTS / f"{name}.csv", [line], list(of), made)
    classes = [
        of | {"dataset": dataset, "class": key, "iou": f"{value:.2f}"}
        for dataset, result in results.items()
        for key, value in result.iou.items()
    ]
    merge(RESULTS / f"{name}_classes.csv", classes, [*of, "dataset", "class"], made)


if __name__ == "__main__":
    typer.run(main)
