"""What happens around the steps: progress bar, logs, periodic evaluation. Subclass `Callback` for more."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TextIO

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dabnn.evaluation import SegmentationResult
from dabnn.storage.atomic import written_atomically
from dabnn.training.ema import ModelAverage

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Trainer(Protocol):
    """What a callback may read of a trainer, and ask it for; `dabnn.AlternationTrainer` has all of it."""

    @property
    def model(self) -> nn.Module:
        """The model in training."""

    @property
    def ema(self) -> ModelAverage | None:
        """Its average, or None."""

    @property
    def trained_model(self) -> nn.Module:
        """The average if there is one, else the model."""

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""

    @property
    def scheduler(self) -> LRScheduler | None:
        """The learning-rate schedule, or None for a constant rate."""

    @property
    def accelerator(self) -> Any:
        """Accelerate's, which tells device and processes."""

    @property
    def step(self) -> int:
        """Number of finished steps."""

    @property
    def max_steps(self) -> int:
        """Step at which the run ends."""

    @property
    def run_dir(self) -> Path | None:
        """The folder of the run, or None."""

    def evaluate(self, loaders: Mapping[str, Iterable[Any]]) -> dict[str, SegmentationResult]:
        """Measure segmentation on one loader per dataset."""

    def save_checkpoint(self) -> Path:
        """Write a checkpoint of the current step."""

    def stop(self) -> None:
        """End the run after the current step."""


class Callback:
    """Called by `AlternationTrainer.fit`; every method may be left out.

    Attributes:
        main_process_only: Of several processes only the main one calls it. Such a callback must not evaluate
            or save, which takes all of them.
    """

    main_process_only: ClassVar[bool] = False

    def on_fit_start(self, trainer: Trainer) -> None:
        """Run before the first step, after a resume, with the model in train mode."""

    def on_step_end(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        """Run after every step; ``losses`` holds the unweighted loss of each dataset."""

    def on_evaluate_end(self, trainer: Trainer, results: Mapping[str, SegmentationResult]) -> None:
        """Run after every `AlternationTrainer.evaluate`."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Run after the last step, and when an error or a signal ends the run; last callback first."""


class ProgressBar(Callback):
    """A bar with the smoothed loss of every dataset and the time left."""

    main_process_only = True

    def __init__(self, smoothing: float = 0.95) -> None:
        """Set how much of the old loss each step keeps, in [0, 1)."""
        self.smoothing = smoothing
        self._smooth: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer) -> None:
        """Open the bar."""
        self._progress = Progress(
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            "<",
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
        )
        self._progress.start()
        self._bar = self._progress.add_task("", total=trainer.max_steps, completed=trainer.step, losses="")

    def on_step_end(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        """Advance the bar."""
        for name, loss in losses.items():
            old = self._smooth.get(name, loss)
            self._smooth[name] = self.smoothing * old + (1 - self.smoothing) * loss
        shown = "  ".join(f"{name} {loss:.3f}" for name, loss in self._smooth.items())
        self._progress.update(self._bar, completed=trainer.step, losses=shown)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Close the bar."""
        self._progress.stop()


class CSVLogger(Callback):
    """Writes ``step, dataset, loss, lr`` rows; a resumed run continues its file without doubled rows."""

    main_process_only = True

    HEADER = ("step", "dataset", "loss", "lr")

    def __init__(self, path: str | Path, every: int = 10) -> None:
        """Log every ``every`` steps to ``path``."""
        self.path = Path(path)
        self.every = every

    def on_fit_start(self, trainer: Trainer) -> None:
        """Open the file, keeping the rows up to the step that the run resumes from."""
        kept = self._rows(until=trainer.step)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(self.path) as temporary, temporary.open("w", newline="") as file:
            self._writer(file).writerows([self.HEADER, *kept])
        self._file = self.path.open("a", newline="")

    def on_step_end(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        """Write one row per dataset."""
        if trainer.step % self.every == 0:
            rate = trainer.optimizer.param_groups[0]["lr"]
            rows = [(trainer.step, name, f"{loss:.6g}", f"{rate:.6g}") for name, loss in losses.items()]
            self._writer(self._file).writerows(rows)
            self._file.flush()

    def on_fit_end(self, trainer: Trainer) -> None:
        """Close the file."""
        self._file.close()

    def _rows(self, until: int) -> list[list[str]]:
        if until == 0 or not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        return [row for row in rows if len(row) == len(self.HEADER) and int(row[0]) <= until]

    @staticmethod
    def _writer(file: TextIO) -> Any:
        return csv.writer(file, lineterminator="\n")


class TensorBoardLogger(Callback):
    """Writes losses, learning rate and mIoU as TensorBoard scalars."""

    main_process_only = True

    def __init__(self, folder: str | Path, every: int = 10) -> None:
        """Log every ``every`` steps to ``folder``."""
        self.folder = str(folder)
        self.every = every
        self._writer: SummaryWriter | None = None

    def on_fit_start(self, trainer: Trainer) -> None:
        """Open the event file; TensorBoard drops events after the resumed step."""
        self._open(trainer)

    def on_step_end(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        """Write the scalars."""
        if trainer.step % self.every == 0:
            writer = self._open(trainer)
            for name, loss in losses.items():
                writer.add_scalar(f"loss/{name}", loss, trainer.step)
            writer.add_scalar("lr", trainer.optimizer.param_groups[0]["lr"], trainer.step)

    def on_evaluate_end(self, trainer: Trainer, results: Mapping[str, SegmentationResult]) -> None:
        """Write the mIoU in percent, also of an evaluation outside `AlternationTrainer.fit`."""
        writer = self._open(trainer)
        for name, result in results.items():
            writer.add_scalar(f"miou/{name}", result.miou, trainer.step)
        writer.flush()

    def on_fit_end(self, trainer: Trainer) -> None:
        """Close the event file."""
        self._open(trainer).close()
        self._writer = None

    def _open(self, trainer: Trainer) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._writer = SummaryWriter(self.folder, purge_step=trainer.step + 1 if trainer.step else None)
        return self._writer


class EvaluateEvery(Callback):
    """Evaluates during training and keeps the results in ``history``."""

    def __init__(self, loaders: Mapping[str, Iterable[Any]], every: int) -> None:
        """Evaluate on ``loaders`` every ``every`` steps."""
        self.loaders = loaders
        self.every = every
        self.history: dict[int, dict[str, SegmentationResult]] = {}

    def on_step_end(self, trainer: Trainer, losses: Mapping[str, float]) -> None:
        """Evaluate when it is time."""
        if trainer.step % self.every == 0:
            self.history[trainer.step] = trainer.evaluate(self.loaders)
