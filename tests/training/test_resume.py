"""A run that was stopped, in any way, ends bit for bit where an undisturbed one ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import interrupted
import pytest
from small_runs import assert_equal_state, batches, plain_sgd, seeded_loaders, small_model
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from dabnn.errors import DabnnWarning
from dabnn.training import AlternationTrainer, Callback, CSVLogger, latest_checkpoint
from dabnn.training.checkpoint import read_state

# Python 3.12 on warns about any fork beside threads; torch starts its workers that way.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

STEPS = 11


class Crash(Callback):
    """Fails after a step, like a node that goes down."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: AlternationTrainer, losses: object) -> None:
        if trainer.step == self.step:
            raise RuntimeError("crashed")


def run(
    folder: Path, callback: Callback | None = None, workers: int = 0, **options: Any
) -> AlternationTrainer:
    """Train up to `STEPS`, from the last checkpoint in the folder; a resumed run starts from another seed."""
    resumes = latest_checkpoint(folder / "checkpoints") is not None
    model = small_model(("a", "b"), (2, 2), dropout=0.2, seed=99 if resumes else 0)
    if "optimizer" in options:
        options["optimizer"] = options["optimizer"](model)
    trainer = AlternationTrainer(
        model,
        seeded_loaders(workers),
        ema_decay=0.9,
        callbacks=[CSVLogger(folder / "metrics.csv", every=1), callback or Callback()],
        run_dir=folder,
        checkpoint_every=3,
        **options,
    )
    trainer.fit(max_steps=STEPS, resume=True)
    return trainer


def crash_and_resume(folder: Path, crashes: tuple[int, ...], **options: Any) -> AlternationTrainer:
    for step in crashes:
        with pytest.raises(RuntimeError, match="crashed"):
            run(folder, Crash(step), **options)
    return run(folder, **options)


def assert_same_end(actual: AlternationTrainer, expected: AlternationTrainer) -> None:
    assert actual.step == expected.step == STEPS
    assert_equal_state(actual.model.state_dict(), expected.model.state_dict())
    assert actual.ema is not None
    assert expected.ema is not None
    assert_equal_state(actual.ema.module.state_dict(), expected.ema.module.state_dict())
    states = []
    for trainer in (actual, expected):
        assert trainer.run_dir is not None
        path = latest_checkpoint(trainer.run_dir / "checkpoints")
        assert path is not None
        states.append(read_state(path))
    assert_equal_state(*states)
    logs = [(trainer.run_dir / "metrics.csv").read_text() for trainer in (actual, expected)]  # type: ignore[operator]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ratios": {"a": 2}, "weights": {"b": 0.5}},
        {"update": "dataset"},
        {"update": "shuffled"},
        {"precision": "bf16", "backward": "joint"},
        {
            "optimizer": lambda model: AdamW(model.parameters(), 0.01),
            "scheduler": lambda optimizer, steps: OneCycleLR(optimizer, 0.01, total_steps=steps + 1),
            "clip_norm": 0.5,
            "channels_last": True,
            "backward": "fused",
        },
    ],
    ids=["default", "ratios", "update-dataset", "update-shuffled", "bf16-joint", "adamw-onecycle-clip-fused"],
)
def test_crashed_runs_end_like_undisturbed_ones(tmp_path: Path, options: dict[str, Any]) -> None:
    expected = run(tmp_path / "clean", **options)
    assert_same_end(crash_and_resume(tmp_path / "crashed", (2, 5, 10), **options), expected)


def test_with_worker_processes(tmp_path: Path) -> None:
    expected = run(tmp_path / "clean")
    assert_same_end(crash_and_resume(tmp_path / "crashed", (7,), workers=2), expected)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    run(tmp_path)
    path = latest_checkpoint(tmp_path / "checkpoints")
    assert path is not None
    assert path.name == f"step_{STEPS:08d}"  # also where no periodic checkpoint is due
    written = path.stat().st_mtime_ns
    again = run(tmp_path)
    assert again.step == STEPS
    assert path.stat().st_mtime_ns == written


def test_sigterm_saves_after_the_step_and_exits_with_143(tmp_path: Path) -> None:
    class Terminate(Callback):
        def on_step_end(self, trainer: AlternationTrainer, losses: object) -> None:
            if trainer.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    expected = run(tmp_path / "clean")
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "stopped", callback=Terminate())
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    path = latest_checkpoint(tmp_path / "stopped" / "checkpoints")
    assert path is not None
    assert path.name == "step_00000004"
    assert_same_end(run(tmp_path / "stopped"), expected)


def test_resume_without_a_checkpoint_starts_from_the_beginning(tmp_path: Path) -> None:
    assert run(tmp_path / "new").step == STEPS
    model = small_model()
    AlternationTrainer(model, batches(), optimizer=plain_sgd(model)).fit(max_steps=1, resume=True)


def test_loaders_without_a_state_warn_and_are_exact_if_their_order_is_fixed(tmp_path: Path) -> None:
    def train(folder: Path, *callbacks: Callback) -> AlternationTrainer:
        trainer = AlternationTrainer(
            small_model(), batches(4), run_dir=folder, checkpoint_every=2, callbacks=callbacks
        )
        trainer.fit(max_steps=6, resume=True)
        return trainer

    expected = train(tmp_path / "clean")
    with pytest.raises(RuntimeError, match="crashed"):
        train(tmp_path / "crashed", Crash(3))
    with pytest.warns(DabnnWarning, match="reading 2 batches forward") as warnings:
        actual = train(tmp_path / "crashed")
    assert {warning.filename for warning in warnings} == {__file__}  # where `fit` was called
    assert_equal_state(actual.model.state_dict(), expected.model.state_dict())


def test_sigterm_and_kill_at_random_moments(tmp_path: Path) -> None:
    """SIGTERM saves and exits with 143; SIGKILL at any moment loses nothing that matters."""
    script = Path(interrupted.__file__)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(script.parent), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["clean"] == [0]
    assert report["sigterm"] == [143, 0]
    assert report["group"] == [143, 0]  # as schedulers do it: worker processes get the signal too
    step = int(report["stopped_at"].removeprefix("step_"))
    assert 4 <= step < 30
    assert report["killed"][-1] == 0
    assert report["killed"].count(-9) >= 3
    assert report["end"]["clean"].startswith("step_00000030:")
    assert set(report["end"].values()) == {report["end"]["clean"]}
