"""Train on a part of the training data, and measure every class on images that were seen and that were not.

As in `learning_rate.py` the first 80 % of each training split train; the first and the last 20 % measure. The
evaluation splits are not read. The table has a line per config, method, seed, dataset, part and class: IoU in
percent, and which other class most of its missed pixels are taken for, with their share of all its pixels.

Run: python benchmarks/held_out.py benchmarks/held_out/equal.yaml --method cdcl
    python benchmarks/held_out.py benchmarks/held_out/equal.yaml --method single --dataset cityscapes
Writes: its lines into benchmarks/results/held_out.csv, beside those of other calls, and held_out.json
    (versions, commits).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from learning_rate import RESULTS, on_train
from merge import merge

from dabnn.evaluation import SegmentationResult
from dabnn.experiments.build import build_dataset, data_directory
from dabnn.experiments.config import Config, load_config
from dabnn.experiments.results import read_json
from dabnn.experiments.run import run_folder, run_method
from dabnn.experiments.saved import load_run
from dabnn.experiments.zero_shot import evaluate_branch

PARTS = {"seen": "[:20%]", "unseen": "[80%:]"}


def main(
    configs: Annotated[list[Path], typer.Argument(help="YAML files.")],
    method: Annotated[list[str], typer.Option(help="Method; repeat for several.")],
    seed: Annotated[list[int], typer.Option(help="Seed; repeat for several.")] = [0],  # noqa: B006 (typer)
    dataset: Annotated[list[str], typer.Option(help="Only these datasets; repeatable.")] = [],  # noqa: B006 (typer)
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/held_out"),
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
) -> None:
    for path, name, number in product(configs, method, seed):
        whole = load_config(path)
        config = only(whole, dataset or list(whole.datasets))
        run_method(on_train(config), name, number, out / config.name, data_dir=data)
        for trained in config.datasets:
            folder = run_folder(out / config.name, name, number, [trained])
            of = {"config": path.stem, "method": name, "seed": number, "dataset": trained}
            rows = [of | row for row in measure(folder, config, trained, data)]
            record: Any = read_json(folder / "result.json")
            keys = [*of, "part", "class"]
            merge(RESULTS / "held_out.csv", rows, keys, [record["environment"]])


def only(config: Config, names: list[str]) -> Config:
    """Return the same experiment with some of its datasets."""
    return replace(config, datasets={name: config.datasets[name] for name in names})


def measure(folder: Path, config: Config, name: str, data: Path | None) -> Iterator[dict[str, object]]:
    """Yield the lines of one dataset of a finished training."""
    saved = load_run(folder)
    for part, images in PARTS.items():
        entry = config.datasets[name]
        measured = replace(config, datasets={name: replace(entry, evaluate=f"{entry.train}{images}")})
        dataset = build_dataset(measured, name, train=False, data_dir=data_directory(config, data))
        result = evaluate_branch(saved, name, dataset)
        for number, (key, iou) in enumerate(result.iou.items()):
            yield {"part": part, "class": key, "iou": f"{iou:.2f}"} | mistaken(result, number)


def mistaken(result: SegmentationResult, number: int) -> dict[str, str]:
    """Return what most missed pixels of a class are taken for."""
    pixels = result.confusion[number].double()
    missed = pixels.clone()
    missed[number] = 0
    other = int(missed.argmax())
    return {"taken_for": list(result.iou)[other], "share": f"{100 * missed[other] / pixels.sum():.1f}"}


if __name__ == "__main__":
    typer.run(main)
