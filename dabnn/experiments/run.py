"""One training of an experiment: where it is, whether it is finished, and how it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from dabnn import save_pretrained
from dabnn.data import SegmentationDataset
from dabnn.errors import ConfigError
from dabnn.evaluation import SegmentationResult
from dabnn.experiments.build import (
    build_dataset,
    build_eval_loader,
    build_training_split,
    data_directory,
)
from dabnn.experiments.config import Config
from dabnn.experiments.describe import describe_dataset, describe_run
from dabnn.experiments.methods import Method, Network, get_method
from dabnn.experiments.results import Row, environment, identity, is_of, read_json, read_rows, write_json
from dabnn.experiments.saved import RESULT, load_model
from dabnn.experiments.trainer import build_trainer
from dabnn.experiments.whole_images import recalibrate_on
from dabnn.models.stored.folder import MODEL
from dabnn.training import AlternationTrainer, Callback, FastDilation
from dabnn.training.processes import agreed

EXPERIMENT = "experiment.json"
"""File that says which experiment a folder was begun for."""
OLD_EXPERIMENT = "config.json"
"""Its name in the folders of earlier versions."""
BATCHES = 50
"""Batches of each dataset that a recalibration reads."""

Callbacks = Callable[[], Iterable[Callback]]
"""Makes further callbacks for each training."""


@dataclass(frozen=True)
class Run:
    """One network of an experiment that is trained, or was, by a method with a seed.

    Attributes:
        config: The experiment.
        method: How the network is trained.
        seed: Seed of initialisation, data order and augmentation.
        network: The datasets of the network.
        out: Folder of the experiment's runs.
    """

    config: Config
    method: Method
    seed: int
    network: Network
    out: Path

    @property
    def folder(self) -> Path:
        """Folder of the run, such as ``runs/three_cities/single-seed0/camvid``."""
        folder = self.out / f"{self.method.name}-seed{self.seed}"
        return folder if self.method.together else folder / self.network.train[0]

    @property
    def finished(self) -> bool:
        """Whether the folder holds the finished training of this experiment."""
        record = read_json(self.folder / RESULT)
        return record is not None and is_of(record["config"], self.config)

    @property
    def start(self) -> Run | None:
        """The run of the single-dataset network that this one starts from, if it does."""
        if self.network.start is None:
            return None
        single = Network((self.network.start,), (self.network.start,))
        return Run(self.config, get_method("single"), self.seed, single, self.out)

    @property
    def batches(self) -> int:
        """Batches that the training takes: steps times datasets, of which one may have several in a step."""
        # Which dataset is the largest is not known before the data is there, and makes no difference.
        ratios = self.method.dataset_ratios(dict.fromkeys(self.network.train, 1))
        each_step = sum(self.config.datasets[name].ratio * ratio for name, ratio in ratios.items())
        return self.method.training(self.config).steps * each_step

    def rows(self) -> list[Row]:
        """Return the results of the finished run, one per dataset."""
        return read_rows(self.folder)

    def train(self, data_dir: Path | None = None, callbacks: Callbacks = tuple) -> None:
        """Train and evaluate the network, and the one it starts from, unless that was done before.

        An interrupted training resumes from its last checkpoint. Started by ``torchrun`` or
        ``accelerate launch``, the processes train together and the main one writes.

        Args:
            data_dir: Folder of the datasets, if not the config's.
            callbacks: Makes further callbacks for each training.

        Raises:
            ConfigError: If the folder holds a training with another config, or norms that the method shares
                are to be recalibrated.
        """
        if self.config.training.recalibrate and self.method.conversion(self.config.model):
            raise ConfigError(
                f"training.recalibrate needs norms of each dataset, {self.method.name!r} shares some"
            )
        if self.finished:
            return
        if self.start is not None:
            self.start.train(data_dir, callbacks)
        agreed(self._claim, main_only=True)
        root = data_directory(self.config, data_dir)
        train = self._training_splits(root)
        evaluation = self._evaluation_splits(root)
        start = None if self.start is None else load_model(self.start.folder)
        trainer = build_trainer(self.config, self.method, self.seed, train, self.folder, callbacks(), start)
        loaders = {name: build_eval_loader(self.config, dataset) for name, dataset in evaluation.items()}
        with FastDilation() if trainer.accelerator.device.type == "cpu" else nullcontext():
            trainer.fit(self.method.training(self.config).steps, resume=True)
            if self.config.training.recalibrate:
                self._recalibrate(trainer, train)
            results = trainer.evaluate(loaders)
        agreed(partial(self._write, trainer, evaluation, results, root), main_only=True)

    def _claim(self) -> None:
        """Note the config in the folder; refuse a folder that was begun with another one.

        Raises:
            ConfigError: If the folder belongs to another config, whose checkpoints must not be resumed.
        """
        for file in (self.folder / EXPERIMENT, self.folder / OLD_EXPERIMENT):
            begun = read_json(file)
            if begun is not None and not is_of(begun, self.config):
                raise ConfigError(
                    f"{self.folder} holds a training with another configuration ({file}); give this "
                    "experiment another name, choose another --out, or remove the folder"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / EXPERIMENT, identity(self.config))

    def _training_splits(self, root: Path) -> dict[str, SegmentationDataset]:
        joined = self.network.joined
        return {name: build_training_split(self.config, name, joined, root) for name in self.network.train}

    def _evaluation_splits(self, root: Path) -> dict[str, SegmentationDataset]:
        names = self.network.datasets
        return {name: build_dataset(self.config, name, train=False, data_dir=root) for name in names}

    def _recalibrate(self, trainer: AlternationTrainer, train: Mapping[str, SegmentationDataset]) -> None:
        for name, dataset in train.items():
            recalibrate_on(
                trainer.trained_model,
                build_eval_loader(self.config, dataset, shuffle=True),
                self.config.training.batch_size,
                branch=name,
                max_batches=BATCHES,
            )

    def _write(
        self,
        trainer: AlternationTrainer,
        evaluation: Mapping[str, SegmentationDataset],
        results: Mapping[str, SegmentationResult],
        root: Path,
    ) -> None:
        """Write the model first and the result last: its presence means that the run is finished."""
        datasets = {
            name: describe_dataset(self.config, name, dataset, results[name].miou)
            for name, dataset in evaluation.items()
        }
        info = describe_run(self.config, self.method, trainer.step, datasets)
        save_pretrained(trainer.trained_model, self.folder / MODEL, info)
        rows = [
            Row(self.method.name, name, self.seed, trainer.step, result.miou)
            for name, result in results.items()
        ]
        record = {
            "config": identity(self.config),
            "data_dir": str(root.resolve()),
            "environment": environment(),
            "rows": [asdict(row) for row in rows],
            "iou": {name: result.iou for name, result in results.items()},
        }
        write_json(self.folder / RESULT, record)


def runs_of(config: Config, method: str, seed: int, out: Path) -> list[Run]:
    """Return the runs of a method with a seed, one for each network.

    Raises:
        ConfigError: If there is no such method, or it does not fit the number of datasets.
    """
    found = get_method(method)
    return [Run(config, found, seed, network, out) for network in found.networks(config.datasets)]


def run_with(config: Config, method: str, seed: int, dataset: str, out: Path) -> Run:
    """Return the run whose network has the branch of a dataset."""
    return next(run for run in runs_of(config, method, seed, out) if dataset in run.network.datasets)


def run_method(
    config: Config,
    method: str,
    seed: int,
    out: Path,
    *,
    data_dir: Path | None = None,
    callbacks: Callbacks = tuple,
) -> list[Row]:
    """Train and evaluate one method with one seed; finished runs are read back.

    Args:
        config: The experiment.
        method: Name of the method, see `dabnn.experiments.methods`.
        seed: Seed of initialisation, data order and augmentation.
        out: Folder of the experiment's runs.
        data_dir: See `Run.train`.
        callbacks: See `Run.train`.

    Returns:
        One row per dataset.

    Raises:
        ConfigError: As `runs_of` and `Run.train` do.
    """
    runs = runs_of(config, method, seed, out)
    for run in runs:
        run.train(data_dir, callbacks)
    return [row for run in runs for row in run.rows()]
