"""What a table needs to be trained, and what of it is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dabnn.experiments.config import Config
from dabnn.experiments.methods import get_method
from dabnn.experiments.run import is_finished, run_folder


class Training(NamedTuple):
    """One training behind a table.

    Attributes:
        folder: Where it is, or will be.
        batches: Batches that it takes: steps times datasets, of which one may have several in a step.
        finished: Whether it is there.
    """

    folder: Path
    batches: int
    finished: bool


def plan_trainings(
    config: Config, methods: Iterable[str], seeds: Iterable[int], runs: Path
) -> list[Training]:
    """Return the trainings of methods and seeds in the order in which they are made, each once.

    Args:
        config: The experiment.
        methods: Names of methods, any of them more than once.
        seeds: Seeds of each.
        runs: Folder of the experiment's runs.
    """
    trainings: dict[Path, Training] = {}
    for seed in seeds:
        for name in methods:
            for network in get_method(name).networks(config.datasets):
                if network.start is not None:
                    start = _training(config, "single", seed, (network.start,), runs)
                    trainings.setdefault(start.folder, start)
                training = _training(config, name, seed, network.train, runs)
                trainings.setdefault(training.folder, training)
    return list(trainings.values())


def _training(config: Config, name: str, seed: int, datasets: Sequence[str], runs: Path) -> Training:
    method, folder = get_method(name), run_folder(runs, name, seed, datasets)
    # Which dataset is the largest is not known before the data is there, and makes no difference to the sum.
    ratios = method.dataset_ratios(dict.fromkeys(datasets, 1))
    batches = sum(config.datasets[dataset].ratio * ratio for dataset, ratio in ratios.items())
    return Training(folder, method.training(config).steps * batches, is_finished(folder, config))
