"""A new city in 50 images: IDD-Lite for a network trained on Cityscapes and CamVid, in three ways.

- from_scratch: a network of its own, from the ImageNet encoder.
- full_finetune: `dabnn.add_dataset`, then all weights are trained on the new images.
- branch_only: `dabnn.add_dataset`, then only the new branch is trained.

The 50 images are spread evenly over the training split. The learning rate of each way is the best of ``--lr``
on another 50 of it; the evaluation splits are read for the final runs alone. Finished parts are not repeated.

Run: python benchmarks/new_city.py         (about 45 minutes on 2 cores)
Writes: benchmarks/results/new_city.csv and new_city_lr.csv, each with versions, commit and settings.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

import dabnn
from dabnn.data import SegmentationDataset
from dabnn.experiments.build import (
    build_dataset,
    build_eval_loader,
    build_model,
    build_optimizer,
    build_train_loader,
    data_directory,
    new_head,
)
from dabnn.experiments.config import Config, load_config
from dabnn.experiments.results import environment
from dabnn.experiments.run import run_method, run_with
from dabnn.experiments.saved import load_model
from dabnn.training import AlternationTrainer, poly

RESULTS = Path(__file__).parent / "results"
CONFIG = Path(__file__).parents[1] / "examples" / "configs" / "three_cities.yaml"
OLD, NEW = ("cityscapes", "camvid"), "idd"
WAYS = ("from_scratch", "full_finetune", "branch_only")
RATES, SEEDS = [0.0005, 0.002, 0.008], [0, 1, 2]
COLUMNS = ("method", "lr", "dataset", "seed", "steps", "miou")
Rows = list[dict[str, Any]]


def main(
    lr: Annotated[list[float], typer.Option(help="Learning rates to choose from.")] = RATES,
    seed: Annotated[list[int], typer.Option(help="Seed; repeat for several.")] = SEEDS,
    images: Annotated[int, typer.Option(help="Images of the new city.")] = 50,
    steps: Annotated[int, typer.Option(help="Steps on the new city.")] = 300,
    base_steps: Annotated[int, typer.Option(help="Steps on the old cities.")] = 800,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/new_city"),
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the tables.")] = RESULTS,
) -> None:
    config = load_config(CONFIG)
    old = replace(
        config,
        name="old_cities",
        datasets={name: config.datasets[name] for name in OLD},
        training=replace(config.training, steps=base_steps),
    )
    run_method(old, "cdcl", 0, out / old.name, data_dir=data)
    trained = run_with(old, "cdcl", 0, OLD[0], out / old.name).folder
    config = replace(config, training=replace(config.training, steps=steps))
    city = NewCity(config, trained, images, data_directory(config, data), out)
    choice = [row for way in WAYS for rate in lr for row in city.measure(way, rate, 0, final=False)]
    final = [
        row
        for way in WAYS
        for number in seed
        for row in city.measure(way, best_rate(choice, way), number, final=True)
    ]
    settings = {"images": images, "steps on the old cities": base_steps}
    write(output / "new_city_lr.csv", choice, settings)
    write(output / "new_city.csv", city.before() + final, settings)


def best_rate(rows: Rows, way: str) -> float:
    """Return the learning rate with the highest mIoU of one way."""
    best = max((row for row in rows if row["method"] == way), key=lambda row: float(row["miou"]))
    return float(best["lr"])


class NewCity:
    """Trains and measures the three ways; each result is kept in a file and read back."""

    def __init__(self, config: Config, trained: Path, images: int, data_dir: Path, out: Path) -> None:
        self.config = config
        self.trained = trained
        self.images = images
        self.data_dir = data_dir
        self.out = out

    def measure(self, way: str, lr: float, seed: int, *, final: bool) -> Rows:
        """Train one way; measure the new city and, finally, the old ones on their evaluation splits."""

        def run() -> Rows:
            trainer = self._trainer(way, lr, seed)
            trainer.fit(max_steps=self.config.training.steps)
            if final:
                names = (NEW,) if way == "from_scratch" else (*OLD, NEW)
                datasets = {name: self._evaluation(name) for name in names}
            else:
                datasets = {NEW: self._part(1)}
            return self._rows(way, lr, seed, trainer, datasets)

        return self._once(f"{way}-lr{lr}-seed{seed}-{'final' if final else 'choice'}", run)

    def before(self) -> Rows:
        """Measure the old cities on the network as it was trained."""

        def run() -> Rows:
            model = load_model(self.trained)
            trainer = AlternationTrainer(model, dict.fromkeys(OLD, ()), callbacks=[])
            return self._rows("before", 0.0, 0, trainer, {name: self._evaluation(name) for name in OLD})

        return self._once("before", run)

    def _trainer(self, way: str, lr: float, seed: int) -> AlternationTrainer:
        torch.manual_seed(seed)
        train = self._part(0)
        if way == "from_scratch":
            model: nn.Module = build_model(self.config, {NEW: len(train.classes)})
        else:
            model = load_model(self.trained)
            dabnn.add_dataset(
                model, NEW, num_classes=len(train.classes), init_from=OLD, head_factory=new_head
            )
        if way == "branch_only":
            model.requires_grad_(False)
            for parameter in dabnn.branch_parameters(model, NEW):
                parameter.requires_grad_(True)
        training = replace(self.config.training, lr=lr)
        return AlternationTrainer(
            model,
            {NEW: build_train_loader(self.config, train, seed)},
            optimizer=build_optimizer(training, model),
            scheduler=poly,
            channels_last=training.channels_last,
            callbacks=[],
        )

    def _part(self, number: int) -> SegmentationDataset:
        """Return ``images`` images spread evenly over the training split; part 0 and part 1 are disjoint."""
        dataset: Any = build_dataset(self.config, NEW, train=True, data_dir=self.data_dir)
        stride = len(dataset) // self.images
        dataset.pairs = dataset.pairs[number * stride // 2 :: stride][: self.images]
        part: SegmentationDataset = dataset
        return part

    def _evaluation(self, name: str) -> SegmentationDataset:
        return build_dataset(self.config, name, train=False, data_dir=self.data_dir)

    def _rows(
        self,
        way: str,
        lr: float,
        seed: int,
        trainer: AlternationTrainer,
        datasets: dict[str, SegmentationDataset],
    ) -> Rows:
        loaders = {name: build_eval_loader(self.config, dataset) for name, dataset in datasets.items()}
        facts = {"method": way, "lr": lr, "seed": seed, "steps": trainer.step}
        return [
            facts | {"dataset": name, "miou": result.miou}
            for name, result in trainer.evaluate(loaders).items()
        ]

    def _once(self, name: str, run: Callable[[], Rows]) -> Rows:
        file = self.out / f"{name}.json"
        if not file.exists():
            rows = run()
            file.write_text(json.dumps(rows))
        found: Rows = json.loads(file.read_text())
        print(name, *(f"{row['dataset']} {row['miou']:.2f}" for row in found), flush=True)
        return found


def write(path: Path, rows: Rows, settings: dict[str, Any]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "miou": f"{row['miou']:.2f}"} for row in rows)
    path.with_suffix(".json").write_text(json.dumps(environment() | settings, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
