"""Measure how often the dataset of images is guessed right, with 1, 4 and 16 images a query.

A finished CDCL run is asked about its evaluation splits; a query is a group of neighbouring images.
Thresholds keep 95 % of the last fifth of each training split, which the network was trained on. The table has
a line per split, number of norms, query size and dataset.

Run: python benchmarks/guess.py runs/three_cities_sgd/cdcl-seed0 --name guess
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

import dabnn
from dabnn.branches.guess import DatasetGuess
from dabnn.experiments.build import build_dataset, build_eval_loader, data_directory
from dabnn.experiments.config import Config
from dabnn.experiments.results import environment
from dabnn.experiments.saved import load_run

RESULTS = Path(__file__).parent / "results"
Rows = list[tuple[object, ...]]

LAYERS, QUERY_SIZES, KEEP = (1, 4, 16), (1, 4, 16), 0.95


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finished CDCL training.")],
    name: Annotated[str, typer.Option(help="Name of the table.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
) -> None:
    saved = load_run(run)
    root = data_directory(saved.config, data)
    rows: Rows = []
    for layers in LAYERS:
        train = scores(saved.model, saved.config, root, layers, evaluation=False)
        evaluation = scores(saved.model, saved.config, root, layers, evaluation=True)
        limits = [column[:, i].quantile(KEEP) for i, column in enumerate(train.values())]
        for split, found in (("train", train), ("evaluation", evaluation)):
            rows += [
                (split, layers, size, *answer)
                for size in QUERY_SIZES
                for answer in answers(found, torch.stack(limits), size)
            ]
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ("split", "norms", "images a query", "dataset", "queries", "right %", "right or none %", "none %")
        )
        writer.writerows(rows)
    (RESULTS / f"{name}.json").write_text(json.dumps(environment(), indent=1) + "\n")


def scores(
    model: nn.Module, config: Config, root: Path, layers: int, *, evaluation: bool
) -> dict[str, Tensor]:
    """Return the misfits (images, datasets) of every dataset's images, in file order."""
    found = {}
    for name, entry in config.datasets.items():
        split = entry.evaluate if evaluation else f"{entry.train}[80%:]"
        asked = replace(config, datasets={name: replace(entry, evaluate=split)})
        loader = build_eval_loader(asked, build_dataset(asked, name, train=False, data_dir=root))
        guesses = [dabnn.guess_dataset(model, batch["image"], layers=layers).scores for batch in loader]
        found[name] = torch.cat(guesses)
    return found


def answers(found: dict[str, Tensor], limits: Tensor, size: int) -> Rows:
    """Return a line per dataset: the number of queries; the shares right, not wrong and unanswered."""
    names = tuple(found)
    lines: Rows = []
    for name, rows in found.items():
        queries = rows[: len(rows) // size * size].split(size)
        free = [DatasetGuess(names, query, torch.full_like(limits, torch.inf)).together for query in queries]
        careful = [DatasetGuess(names, query, limits).together for query in queries]
        right = sum(answer == name for answer in free)
        not_wrong = sum(answer in (name, None) for answer in careful)
        shares = (right, not_wrong, careful.count(None))
        lines.append((name, len(queries), *(f"{100 * share / len(queries):.1f}" for share in shares)))
    return lines


if __name__ == "__main__":
    typer.run(main)
