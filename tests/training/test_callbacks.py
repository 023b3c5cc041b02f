"""Callbacks, logs and the progress bar."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import NAMES, batches, plain_sgd, segmentation_batch, small_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dabnn.training import (
    AlternationTrainer,
    Callback,
    CSVLogger,
    EvaluateEvery,
    ProgressBar,
    TensorBoardLogger,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*has no state_dict")


class Recorder(Callback):
    """Writes down what it was called for."""

    def __init__(self, events: list[Any], name: str = "", fail_at: int | None = None) -> None:
        self.events, self.name, self.fail_at = events, name, fail_at

    def on_fit_start(self, trainer: AlternationTrainer) -> None:
        self.events.append(f"{self.name}start {trainer.step}/{trainer.max_steps} {trainer.model.training}")

    def on_step_end(self, trainer: AlternationTrainer, losses: Mapping[str, float]) -> None:
        self.events.append(f"{self.name}step {trainer.step} {','.join(losses)}")
        if trainer.step == self.fail_at:
            raise RuntimeError("stop here")

    def on_evaluate_end(self, trainer: AlternationTrainer, results: Mapping[str, Any]) -> None:
        self.events.append(f"{self.name}evaluated {','.join(results)}")

    def on_fit_end(self, trainer: AlternationTrainer) -> None:
        self.events.append(f"{self.name}end {trainer.step}")


def train(
    steps: int, *callbacks: Callback, run_dir: Path | None = None, **options: Any
) -> AlternationTrainer:
    model = small_model()
    trainer = AlternationTrainer(
        model, batches(), optimizer=plain_sgd(model), callbacks=callbacks, run_dir=run_dir, **options
    )
    trainer.fit(max_steps=steps, resume=run_dir is not None)
    return trainer


def evaluation_loaders() -> dict[str, list[Any]]:
    return {"a": [segmentation_batch(3)], "c": [segmentation_batch(2)]}


def test_order_of_calls() -> None:
    events: list[str] = []
    every = EvaluateEvery(evaluation_loaders(), every=2)
    train(3, Recorder(events, "1:"), every, Recorder(events, "2:"))
    assert events == [
        "1:start 0/3 True",
        "2:start 0/3 True",
        "1:step 1 a,b,c",
        "2:step 1 a,b,c",
        "1:step 2 a,b,c",
        "1:evaluated a,c",
        "2:evaluated a,c",
        "2:step 2 a,b,c",
        "1:step 3 a,b,c",
        "2:step 3 a,b,c",
        "2:end 3",
        "1:end 3",
    ]
    assert list(every.history) == [2]
    assert set(every.history[2]) == {"a", "c"}


def test_started_callbacks_end_when_a_step_fails() -> None:
    events: list[str] = []
    with pytest.raises(RuntimeError, match="stop here"):
        train(3, Recorder(events, "1:"), Recorder(events, "2:", fail_at=2))
    assert events[-2:] == ["2:end 2", "1:end 2"]


def test_an_error_at_the_start_is_not_hidden_by_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    events: list[str] = []
    with pytest.raises(OSError, match="file"):
        train(1, Recorder(events), CSVLogger(tmp_path / "file" / "metrics.csv"))
    assert events == ["start 0/1 True", "end 0"]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_holds_every_dataset_with_loss_and_rate(tmp_path: Path) -> None:
    losses: dict[int, dict[str, float]] = {}

    class Losses(Callback):
        def on_step_end(self, trainer: AlternationTrainer, step_losses: Mapping[str, float]) -> None:
            losses[trainer.step] = dict(step_losses)

    train(5, Losses(), CSVLogger(tmp_path / "logs" / "metrics.csv", every=2))
    rows = read_csv(tmp_path / "logs" / "metrics.csv")
    assert [(row["step"], row["dataset"]) for row in rows] == [
        (str(s), name) for s in (2, 4) for name in NAMES
    ]
    for row in rows:
        assert float(row["loss"]) == pytest.approx(losses[int(row["step"])][row["dataset"]], rel=1e-5)
        assert row["lr"] == "0.1"


def test_csv_of_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with pytest.raises(RuntimeError, match="stop here"):
        train(6, CSVLogger(path, 1), Recorder([], fail_at=5), run_dir=tmp_path, checkpoint_every=2)
    assert {int(row["step"]) for row in read_csv(path)} == {1, 2, 3, 4, 5}
    with path.open("a") as file:
        file.write("6,a,0.1")  # cut off by a crash
    train(6, CSVLogger(path, 1), run_dir=tmp_path)
    assert [int(row["step"]) for row in read_csv(path)] == sorted([1, 2, 3, 4, 5, 6] * 3)


def test_csv_rows_survive_a_kill_right_after_the_restart(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    trainer = train(4, CSVLogger(path, 1), run_dir=tmp_path)
    before = path.read_text()
    restarted = CSVLogger(path, 1)
    restarted.on_fit_start(trainer)
    assert path.read_text() == before  # nothing waits in a buffer
    restarted.on_fit_end(trainer)


def test_a_new_run_starts_a_new_csv(tmp_path: Path) -> None:
    for _ in range(2):
        train(2, CSVLogger(tmp_path / "metrics.csv", 1))
        assert len(read_csv(tmp_path / "metrics.csv")) == 6


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_can_be_read_and_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    every = EvaluateEvery(evaluation_loaders(), every=2)
    with pytest.raises(RuntimeError, match="stop here"):
        train(
            6,
            TensorBoardLogger(folder, 1),
            every,
            Recorder([], fail_at=5),
            run_dir=tmp_path,
            checkpoint_every=2,
        )
    train(6, TensorBoardLogger(folder, 1), every, run_dir=tmp_path)
    assert [step for step, _ in scalars(folder, "loss/b")] == [1, 2, 3, 4, 5, 6]
    assert scalars(folder, "lr")[-1] == (6, pytest.approx(0.1))
    assert [step for step, _ in scalars(folder, "miou/a")] == [2, 4, 6]
    assert scalars(folder, "miou/a")[0][1] == pytest.approx(every.history[2]["a"].miou, rel=1e-4)


def test_tensorboard_gets_evaluations_outside_fit(tmp_path: Path) -> None:
    model = small_model()
    logger = TensorBoardLogger(tmp_path)
    trainer = AlternationTrainer(model, batches(), optimizer=plain_sgd(model), callbacks=[logger])
    trainer.evaluate(evaluation_loaders())
    trainer.fit(max_steps=2)
    trainer.evaluate(evaluation_loaders())
    assert [step for step, _ in scalars(tmp_path, "miou/c")] == [0, 2]
    logger.on_fit_end(trainer)


def test_progress_bar_shows_steps_and_losses(capsys: pytest.CaptureFixture[str]) -> None:
    train(3, ProgressBar())
    shown = capsys.readouterr().out
    assert "3/3" in shown
    assert "a 1." in shown or "a 0." in shown


def test_a_progress_bar_is_shown_unless_callbacks_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    AlternationTrainer(small_model(), batches()).fit(2)
    assert "2/2" in capsys.readouterr().out
    AlternationTrainer(small_model(), batches(), callbacks=[]).fit(2)
    assert not capsys.readouterr().out


def test_progress_bar_smooths_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = ProgressBar(smoothing=0.5)
    trainer = train(1)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    bar.on_fit_start(trainer)
    for loss in (4.0, 2.0, 2.0):
        bar.on_step_end(trainer, {"a": loss})
    bar.on_fit_end(trainer)
    assert bar._progress.tasks[0].fields["losses"] == "a 2.500"


def test_a_callback_may_freeze_norms_at_the_start() -> None:
    class Freeze(Callback):
        def on_fit_start(self, trainer: AlternationTrainer) -> None:
            trainer.model.stem.eval()

    model = small_model()
    before = [buffer.clone() for buffer in model.stem.buffers()]
    AlternationTrainer(model, batches(), callbacks=[Freeze()]).fit(max_steps=2)
    assert all(torch.equal(a, b) for a, b in zip(model.stem.buffers(), before, strict=True))
