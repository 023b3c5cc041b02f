"""What a table needs to be trained, and what of it is there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dabnn.experiments.config import Config
from dabnn.experiments.methods import get_method
from dabnn.experiments.run import is_finished, run_folder


class Training(NamedTuple):
    """One training behind a table.

    Attributes:
        folder: Where it is, or will be.
        batches: Batches that it takes: steps times datasets.
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
            method = get_method(name)
            steps = method.training(config).steps
            for network in method.networks(config.datasets):
                folder = run_folder(runs, name, seed, network.train)
                batches = steps * len(network.train)
                trainings.setdefault(folder, Training(folder, batches, is_finished(folder, config)))
    return list(trainings.values())
