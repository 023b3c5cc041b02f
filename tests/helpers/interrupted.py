"""A training that is killed again and again: run as a script, it imports once and forks every attempt.

Prints one JSON line: what became of the attempts, and the digest of each run's end state.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from small_runs import seeded_loaders, small_model

from dabnn.training import AlternationTrainer, Callback, CSVLogger, latest_checkpoint
from dabnn.training.checkpoint import read_state

STEPS = 30


class Announce(Callback):
    """Tells the parent process about every step, and leaves it some time."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_step_end(self, trainer: AlternationTrainer, losses: object) -> None:
        os.write(self.pipe, b".")
        time.sleep(0.002)


def train(folder: Path, pipe: int, workers: int) -> None:
    torch.manual_seed(0)
    trainer = AlternationTrainer(
        small_model(("a", "b"), (2, 2), dropout=0.2),
        seeded_loaders(workers),
        ema_decay=0.9,
        callbacks=[CSVLogger(folder / "metrics.csv", every=1), Announce(pipe)],
        run_dir=folder,
        checkpoint_every=3,
    )
    trainer.fit(max_steps=STEPS, resume=True)


def attempt(folder: Path, interrupt: Callable[[int, int], None], workers: int = 0) -> int:
    """Train in a forked process until it ends or ``interrupt(pid, pipe)`` ends it; return its exit code.

    The process leads a process group of its own.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            os.close(reader)
            train(folder, writer, workers)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            os._exit(code)
    os.close(writer)
    interrupt(pid, reader)
    os.close(reader)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def let_it_run(pid: int, pipe: int) -> None:
    while os.read(pipe, 64):
        pass


def kill_at_random(rng: random.Random) -> Callable[[int, int], None]:
    def kill(pid: int, pipe: int) -> None:
        os.read(pipe, 1)
        time.sleep(rng.uniform(0, 0.12))
        os.kill(pid, signal.SIGKILL)

    return kill


def terminate(pid: int, pipe: int) -> None:
    for _ in range(4):
        os.read(pipe, 1)
    os.kill(pid, signal.SIGTERM)
    let_it_run(pid, pipe)


def terminate_group(pid: int, pipe: int) -> None:
    for _ in range(4):
        os.read(pipe, 1)
    os.killpg(pid, signal.SIGTERM)
    let_it_run(pid, pipe)


def end_state(folder: Path) -> str:
    """Digest of the last checkpoint and the log, leaving out what the file formats add."""
    path = latest_checkpoint(folder / "checkpoints")
    if path is None:
        return "none"
    digest = hashlib.sha256()
    for name in ("model.safetensors", "ema.safetensors"):
        digest.update((path / name).read_bytes())
    digest.update(repr(flat(read_state(path))).encode())
    digest.update((folder / "metrics.csv").read_bytes())
    return f"{path.name}:{digest.hexdigest()}"


def flat(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [flat(item) for item in value]
    return value


def main(root: Path) -> None:
    report: dict[str, object] = {"clean": [attempt(root / "clean", let_it_run)]}
    report["sigterm"] = [attempt(root / "sigterm", terminate)]
    path = latest_checkpoint(root / "sigterm" / "checkpoints")
    report["stopped_at"] = path.name if path else None
    report["sigterm"] += [attempt(root / "sigterm", let_it_run)]
    report["group"] = [attempt(root / "group", terminate_group, 2), attempt(root / "group", let_it_run)]
    rng = random.Random(0)
    codes = []
    while not codes or (codes[-1] != 0 and len(codes) < 20):
        codes.append(attempt(root / "killed", kill_at_random(rng) if len(codes) < 8 else let_it_run))
    report["killed"] = codes
    report["end"] = {name: end_state(root / name) for name in ("clean", "sigterm", "group", "killed")}
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
