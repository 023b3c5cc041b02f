"""Does loading keep up with training? Time to load a batch of each dataset over time to train on it.

Below 1 the loader gives more than the model consumes. Also a whole DAT step, loading and training, with the
loading in this process and in a process for each dataset.

Run: python benchmarks/loader.py          (the three cities; about 5 minutes on 2 cores)
Writes: benchmarks/results/loader.csv and loader.json (versions, commit, settings).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from paired import RESULTS, ratios, row, write

from dabnn.experiments.build import build_dataset, build_train_loader, data_directory
from dabnn.experiments.config import Config, load_config
from dabnn.experiments.methods import get_method
from dabnn.experiments.trainer import build_trainer
from dabnn.training import AlternationTrainer

CONFIG = Path(__file__).parents[1] / "examples" / "configs" / "three_cities.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    config = load_config(args.config)
    with TemporaryDirectory() as folder:
        alone = trainer_of(config, args.data, 0, Path(folder))
        ahead = trainer_of(config, args.data, 1, Path(folder))
        rows = [loading_ratio(config, args.data, name, alone, args.pairs) for name in config.datasets]
        rows.append(
            row("step, loading ahead / in this process", ratios(step(ahead), step(alone), args.pairs))
        )
    settings = {"config": config.name, "crop": list(config.images.crop), "batch": config.training.batch_size}
    write("loader", rows, settings, args.output)


def trainer_of(config: Config, data: Path | None, workers: int, folder: Path) -> AlternationTrainer:
    config = replace(config, training=replace(config.training, workers=workers))
    root = data_directory(config, data)
    datasets = {name: build_dataset(config, name, train=True, data_dir=root) for name in config.datasets}
    trainer = build_trainer(config, get_method("cdcl"), 0, datasets, folder)
    trainer.model.train()
    return trainer


def loading_ratio(
    config: Config, data: Path | None, name: str, trainer: AlternationTrainer, pairs: int
) -> dict[str, object]:
    dataset = build_dataset(config, name, train=True, data_dir=data_directory(config, data))
    batches = iter(build_train_loader(config, dataset, 0))
    draws = [draw for draw in trainer.loaders.draw() if draw.dataset == name]
    return row(
        f"{name}: loading / training on a batch",
        ratios(lambda: next(batches), lambda: trainer.train_step(draws), pairs),
    )


def step(trainer: AlternationTrainer) -> Callable[[], object]:
    return lambda: trainer.train_step(trainer.loaders.draw())


if __name__ == "__main__":
    main()
