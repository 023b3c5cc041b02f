"""What a training in two processes gives: started by torchrun, each process saves what it saw.

Run: torchrun --nproc-per-node 2 two_processes.py FOLDER [die]
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from small_runs import (
    CLASSES,
    NAMES,
    Blobs,
    batches,
    gradient,
    plain_sgd,
    seeded_loaders,
    segmentation_batch,
    small_model,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import dabnn
from dabnn.data import SeededLoader
from dabnn.errors import DabnnError, DabnnWarning
from dabnn.training import AlternationTrainer, Callback, CSVLogger, Draw
from dabnn.training.processes import shard
from dabnn.training.step import BACKWARD

warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=DabnnWarning)  # plain lists as loaders, asserted where it matters


def own_draws(rank: int, names: tuple[str, ...] = NAMES) -> list[Draw]:
    """The batches that process ``rank`` draws: different ones in each."""
    return [
        Draw(name, segmentation_batch(classes, seed=100 * rank + d))
        for d, (name, classes) in enumerate(zip(NAMES, CLASSES, strict=True))
        if name in names
    ]


def trainer_of(model: nn.Module, **options: Any) -> AlternationTrainer:
    loaders = options.pop("loaders", None) or batches()
    return AlternationTrainer(model, loaders, optimizer=plain_sgd(model), callbacks=[], **options)


def gradients(rank: int) -> dict[str, Any]:
    """The gradient and the losses of one step, for each way to compute it and for other settings."""
    cases: dict[str, dict[str, Any]] = {mode: {"backward": mode} for mode in BACKWARD}
    cases |= {"dataset": {"update": "dataset"}, "clip": {"clip_norm": 0.1}}
    report: dict[str, Any] = {}
    for name, options in cases.items():
        model = small_model(seed=rank)  # the main process's weights win
        trainer = trainer_of(model, **options)
        sent = count_sent(trainer)
        losses = trainer.train_step(own_draws(rank))
        report[name] = {
            "gradient": {key: grad.clone() for key, grad in gradient(model).items()},
            "losses": losses,
            "weights": {key: p.detach().clone() for key, p in model.named_parameters()},
            "buffers": {key: buffer.clone() for key, buffer in model.named_buffers()},
            "sent": sum(sent),
        }
    return report


def count_sent(trainer: AlternationTrainer) -> list[int]:
    """Count the elements that are exchanged in backward passes."""
    wrapped, sent = trainer._stepper.exchange, []
    assert isinstance(wrapped, DistributedDataParallel)

    def hook(_: object, bucket: Any) -> torch.futures.Future[Tensor]:
        sent.append(bucket.buffer().numel())
        work = torch.distributed.all_reduce(bucket.buffer() / 2, async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    hook.__annotations__.clear()  # torch compares them with classes, and here they are strings
    wrapped.register_comm_hook(None, hook)
    return sent


def after_failures(rank: int) -> dict[str, Any]:
    """Two steps that fail in process 1 alone, in reading and for a NaN, then one that is made by all."""
    report: dict[str, Any] = {}
    for mode in ("per_dataset", "joint", "fused"):
        model = small_model()
        trainer = trainer_of(model, backward=mode)
        start = {key: p.detach().clone() for key, p in model.named_parameters()}
        bad, nan = own_draws(rank), own_draws(rank)
        if rank == 1:
            bad[2] = Draw("c", {"x": 1})
            nan[2].batch[0].fill_(torch.nan)
        errors = [failure(partial(trainer.train_step, draws)) for draws in (bad, nan)]
        unmoved = all(torch.equal(p, start[key]) for key, p in model.named_parameters())
        model.load_state_dict(small_model().state_dict())  # the statistics too
        trainer.train_step(own_draws(rank))
        report[mode] = {"errors": errors, "unmoved": unmoved, "gradient": gradient(model)}
    return report


def forwards_before_a_failed_read(rank: int) -> int:
    """Process 1 cannot read, and the norms of the model wait for all processes: none may begin a forward."""
    model, forwards = small_model(), []
    model.register_forward_pre_hook(lambda module, args: forwards.append(""))
    trainer = trainer_of(model, loaders=batches() | {"b": [] if rank == 1 else batches()["b"]})
    model.extra = nn.SyncBatchNorm(6)  # now, for DistributedDataParallel refuses it without a GPU
    assert "no more batches" in failure(lambda: trainer.fit(max_steps=1))
    return len(forwards)


def agreements() -> dict[str, int]:
    """How often the processes wait for each other in two steps of `fit`, besides for the gradient."""
    calls: list[str] = []
    all_reduce = torch.distributed.all_reduce

    def counted(*args: Any, **options: Any) -> Any:
        calls.append("")
        return all_reduce(*args, **options)

    trainer = trainer_of(small_model())
    torch.distributed.all_reduce = counted
    try:
        counts = []
        for steps in (2, 4):
            trainer.fit(max_steps=steps)
            counts.append(len(calls))
    finally:
        torch.distributed.all_reduce = all_reduce
    return {"first": counts[0], "second": counts[1] - counts[0]}


def absent_dataset(rank: int) -> dict[str, Any]:
    """Process 1 has no image of dataset b in its mixed batch; nobody has one of c."""
    model = small_model()
    trainer = trainer_of(model, loaders=iter(()))
    losses = trainer.train_step(own_draws(rank, ("a", "b") if rank == 0 else ("a",)))
    return {"gradient": gradient(model), "losses": losses}


class Gather(Callback):
    """Notes what reaches this process."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []

    def on_step_end(self, trainer: AlternationTrainer, losses: Any) -> None:
        self.losses.append(dict(losses))


def runs(rank: int, folder: Path) -> dict[str, Any]:
    """Whole runs: uninterrupted, and stopped and resumed."""
    report: dict[str, Any] = {}
    for name, stops in (("whole", (6,)), ("resumed", (4, 6))):
        for end in stops:
            torch.manual_seed(rank)
            model = small_model(("a", "b"), (2, 2), dropout=0.2)
            torch.manual_seed(rank)  # dropout differs between the processes
            run_dir = folder / name
            gather = Gather()
            trainer = AlternationTrainer(
                model,
                seeded_loaders(),
                callbacks=[CSVLogger(run_dir / "metrics.csv", every=1), gather, StopAt(end)],
                ema_decay=0.9,
                run_dir=run_dir,
                checkpoint_every=2,
            )
            trainer.fit(max_steps=6, resume=end != stops[0])
        validation = SeededLoader(Blobs("a", 7), 2, shuffle=False, drop_last=False)
        tiny = SeededLoader(Blobs("b", 1), 2, shuffle=False, drop_last=False)  # nothing for process 1
        results = trainer.evaluate({"a": validation, "b": tiny})
        report[name] = {
            "state": {key: value.clone() for key, value in model.state_dict().items()},
            "ema": {key: value.clone() for key, value in trainer.ema.module.state_dict().items()},
            "losses": gather.losses,
            "callbacks": [type(callback).__name__ for callback in trainer.callbacks],
            "confusion": {name: result.confusion for name, result in results.items()},
        }
    return report


class StopAt(Callback):
    """Stops the run after a step, asked for by process 1 alone."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: AlternationTrainer, losses: Any) -> None:
        if trainer.step == self.step and trainer.accelerator.process_index == 1:
            trainer.stop()


def data_loaders() -> dict[str, Any]:
    """What a process reads from torch's DataLoaders, in training and in evaluation."""
    numbers = TensorDataset(torch.arange(10.0).view(-1, 1), torch.zeros(10, dtype=torch.long))
    net = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    model = dabnn.convert_to_dataset_aware(net, dataset_names=["a"])
    trainer = AlternationTrainer(model, {"a": DataLoader(numbers, batch_size=2, shuffle=True)}, callbacks=[])
    epochs = [[trainer.loaders.draw()[0].batch[0] for _ in range(3)] for _ in range(2)]
    part = shard("a", DataLoader(numbers, batch_size=2), training=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DabnnWarning)
        undivided = shard("b", [1, 2], training=True)
    return {
        "epochs": [torch.cat(batches).flatten().tolist() for batches in epochs],
        "evaluation": [value for batch, _ in part for value in batch.flatten().tolist()],
        "undivided": (undivided, [str(warning.message) for warning in caught]),
        "warned at": [Path(warning.filename).name for warning in caught],
    }


def failure(action: Callable[[], object]) -> str:
    try:
        action()
    except DabnnError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refusals(rank: int, folder: Path) -> dict[str, str]:
    """Errors that all processes must raise, though only one of them has the reason."""

    def broken() -> Any:
        yield from batches(1)["a"]
        if rank == 1:
            raise dabnn.errors.DataError("image 7 is truncated")
        yield from batches(9)["a"]

    def fit(names: tuple[str, ...], **changed: Any) -> Callable[[], None]:
        loaders = {name: items for name, items in batches().items() if name in names}
        trainer = trainer_of(small_model(), loaders=loaders | changed, run_dir=folder / "refusals")
        return lambda: trainer.fit(max_steps=9)

    steps = trainer_of(small_model())
    mixed = {"loaders": iter(()), "update": "dataset"}
    unwritable = trainer_of(small_model(), run_dir=folder / "file" / "under")
    if rank == 0:
        (folder / "file").write_text("")
    images, masks = segmentation_batch(3)
    nan = [(images * torch.nan if rank == 1 else images, masks)]
    bad = [{"x": 1}] if rank == 1 else batches()["c"]
    return {
        "missing dataset": failure(fit(NAMES if rank == 0 else NAMES[:2])),
        "empty loader": failure(fit(NAMES, b=[] if rank == 1 else batches()["b"])),
        "broken loader": failure(fit(NAMES, a=broken())),
        "steps": failure(lambda: steps.fit(max_steps=2 + rank)),
        "nan": failure(fit(NAMES, a=nan)),
        "bad batch": failure(fit(NAMES, c=bad)),
        "mixed": failure(lambda: trainer_of(small_model(), **mixed)),
        "disk": failure(unwritable.save_checkpoint),
    }


def pooled(rank: int) -> dict[str, Tensor]:
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=1.0), nn.BatchNorm1d(3, track_running_stats=False))
    model(torch.arange(12.0).view(4, 3) * (rank + 1))
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    dabnn.sync_batch_norm_buffers(model)
    return {"mean": before["0.running_mean"], "var": before["0.running_var"]} | {
        f"pooled {key}": getattr(model[0], f"running_{key}") for key in ("mean", "var")
    }


def die(rank: int) -> None:
    """Process 1 is killed in step 2, as for its memory; process 0 waits for it."""

    class Kill(Callback):
        def on_step_end(self, trainer: AlternationTrainer, losses: Any) -> None:
            if trainer.step == 2 and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    model = small_model()
    loaders = batches()
    AlternationTrainer(model, loaders, optimizer=plain_sgd(model), callbacks=[Kill()]).fit(max_steps=10_000)


def main(folder: Path) -> None:
    report: dict[str, Any] = {}
    trainer_of(small_model())  # starts the process group
    rank = torch.distributed.get_rank()
    report["gradients"] = gradients(rank)
    report["after failures"] = after_failures(rank)
    report["forwards before a failed read"] = forwards_before_a_failed_read(rank)
    report["agreements"] = agreements()
    report["absent"] = absent_dataset(rank)
    report["runs"] = runs(rank, folder)
    report["loaders"] = data_loaders()
    report["refusals"] = refusals(rank, folder)
    report["pooled"] = pooled(rank)
    group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
    report["timeout"] = group.options._timeout.total_seconds()
    torch.save(report, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    die(int(os.environ["RANK"])) if "die" in sys.argv else main(Path(sys.argv[1]))
