"""Checkpoints on the disk: complete or not there, and never read when damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import NAMES, assert_equal_state, batches, plain_sgd, seeded_loaders, small_model
from torch import nn

from dabnn.errors import CheckpointError, ConfigError
from dabnn.storage import atomic
from dabnn.training import AlternationTrainer, checkpoint, latest_checkpoint
from dabnn.training.checkpoint import checkpoint_path, load_weights, read_state, save_checkpoint

STATE = {"step": 3, "values": [1, 2.5, "x"], "tensor": torch.arange(3)}


def save(folder: Path, step: int, seed: int = 0) -> nn.Module:
    model = small_model(seed=seed)
    save_checkpoint(checkpoint_path(folder, step), {"model": model}, STATE)
    return model


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    model = save(tmp_path, 3)
    path = latest_checkpoint(tmp_path)
    assert path == tmp_path / "step_00000003"
    assert_equal_state(read_state(path), STATE)
    other = small_model(seed=1)
    load_weights(path, {"model": other})
    assert_equal_state(other.state_dict(), model.state_dict())


def test_the_two_newest_stay(tmp_path: Path) -> None:
    for step in (9, 10, 11, 100):
        save(tmp_path, step)
    assert sorted(os.listdir(tmp_path)) == ["step_00000011", "step_00000100"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step_00000100"


def test_the_one_just_written_stays_even_below_older_ones(tmp_path: Path) -> None:
    for step in (100, 200, 5):
        save(tmp_path, step)
    assert sorted(os.listdir(tmp_path)) == ["step_00000005", "step_00000200"]


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 3)
    model = save(tmp_path, 3, seed=5)
    other = small_model(seed=1)
    load_weights(tmp_path / "step_00000003", {"model": other})
    assert_equal_state(other.state_dict(), model.state_dict())
    assert os.listdir(tmp_path) == ["step_00000003"]


@pytest.mark.parametrize("calls", range(5))
def test_replacing_a_step_leaves_a_complete_checkpoint_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Stops the process, so to speak, before its n-th change of a folder."""

    class Killed(BaseException):
        pass

    save(tmp_path, 3)
    count = 0

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal count
            if count == calls:
                raise Killed
            count += 1
            return change(*args, **options)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", counted(os.replace))
        patch.setattr(atomic.shutil, "rmtree", counted(shutil.rmtree))
        with pytest.raises(Killed):
            save(tmp_path, 3, seed=5)
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert_equal_state(read_state(path), STATE)
    load_weights(path, {"model": small_model()})
    save(tmp_path, 3, seed=6)
    assert latest_checkpoint(tmp_path) == tmp_path / "step_00000003"


def test_unfinished_folders_are_not_checkpoints(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "absent") is None
    (tmp_path / ".step_00000007.tmp").mkdir()
    (tmp_path / ".step_00000007.tmp" / "checkpoint.json").write_text("{}")
    (tmp_path / "step_00000008").mkdir()
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("failing", ["save_model", "torch.save"])
def test_full_disk_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    model = small_model()
    trainer = AlternationTrainer(
        model, batches(9), optimizer=plain_sgd(model), run_dir=tmp_path, checkpoint_every=2
    )

    def full(*args: object, **options: object) -> None:
        if trainer.step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saver(*args, **options)

    saver = checkpoint.save_model if failing == "save_model" else torch.save
    monkeypatch.setattr(
        checkpoint if failing == "save_model" else torch, failing.removeprefix("torch."), full
    )
    with pytest.raises(
        CheckpointError, match=r"could not save .*step_00000004: .*No space left.*step_00000002"
    ):
        trainer.fit(max_steps=9)
    assert os.listdir(tmp_path / "checkpoints") == ["step_00000002"]
    path = latest_checkpoint(tmp_path / "checkpoints")
    assert path is not None
    assert read_state(path)["step"] == 2


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def damage_pickle(path: Path) -> None:
    torch.save({"model": nn.Linear(1, 1)}, path)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", [Path.unlink, damage_truncate, damage_flip, damage_pickle])
def test_damaged_files_are_refused_before_anything_changes(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    first = seeded_trainer(tmp_path)
    first.fit(max_steps=2)
    damage(tmp_path / "checkpoints" / "step_00000002" / name)
    trainer = seeded_trainer(tmp_path)
    before = deepcopy(trainer.model.state_dict())
    if name == "checkpoint.json" and damage is Path.unlink:
        assert latest_checkpoint(tmp_path / "checkpoints") is None
        return
    with pytest.raises(CheckpointError, match=r"step_00000002 is damaged: .*remove its folder"):
        trainer.fit(max_steps=2, resume=True)
    assert trainer.step == 0
    assert_equal_state(trainer.model.state_dict(), before)


def test_a_malicious_pickle_is_not_run(tmp_path: Path) -> None:
    """Even with a checksum that fits: the state is read with weights_only=True."""
    seeded_trainer(tmp_path).fit(max_steps=2)
    path = tmp_path / "checkpoints" / "step_00000002"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"step": Evil()}, path / "state.pt")
    header = json.loads((path / "checkpoint.json").read_text())
    header["sha256"].pop("state.pt")
    (path / "checkpoint.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match="damaged"):
        seeded_trainer(tmp_path).fit(max_steps=2, resume=True)
    assert not (tmp_path / "owned").exists()


def test_a_state_that_could_not_be_read_back_fails_when_it_is_saved(tmp_path: Path) -> None:
    class Position:
        pass

    save(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"could not save .*step_00000004: .*step_00000003"):
        save_checkpoint(checkpoint_path(tmp_path, 4), {"model": small_model()}, {"loader": Position})
    assert os.listdir(tmp_path) == ["step_00000003"]


def test_newer_format_says_what_to_install(tmp_path: Path) -> None:
    save(tmp_path, 3)
    header = tmp_path / "step_00000003" / "checkpoint.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"format": 99, "dabnn": "7.8"}))
    with pytest.raises(CheckpointError, match=r"has format 99, .* install dabnn 7\.8 or newer"):
        read_state(tmp_path / "step_00000003")


def seeded_trainer(run_dir: Path, model: nn.Module | None = None, **options: Any) -> AlternationTrainer:
    model = model or small_model(("a", "b"), (2, 2))
    return AlternationTrainer(model, options.pop("loaders", seeded_loaders()), run_dir=run_dir, **options)


def assert_refused(trainer: AlternationTrainer, message: str, steps: int = 2) -> None:
    before = deepcopy(trainer.model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        trainer.fit(max_steps=steps, resume=True)
    assert trainer.step == 0
    assert_equal_state(trainer.model.state_dict(), before)


def test_other_datasets(tmp_path: Path) -> None:
    seeded_trainer(tmp_path).fit(max_steps=2)
    assert_refused(
        seeded_trainer(tmp_path, small_model(("b", "a"), (2, 2))),
        r"step_00000002: .*trained for the datasets \['a', 'b'\], the model is for \['b', 'a'\]",
    )
    assert_refused(
        seeded_trainer(tmp_path, small_model(NAMES, (2, 2, 2))), r"the model is for \['a', 'b', 'c'\]"
    )
    loaders = seeded_loaders()
    del loaders["b"]
    assert_refused(
        seeded_trainer(tmp_path, loaders=loaders), r"trained on \['a', 'b'\], the loaders are for \['a'\]"
    )


def test_other_model(tmp_path: Path) -> None:
    seeded_trainer(tmp_path).fit(max_steps=2)
    assert_refused(
        seeded_trainer(tmp_path, small_model(("a", "b"), (2, 3))),
        r"does not fit the model, first at 'classifier\.heads\.1\.bias'",
    )
    bigger = small_model(("a", "b"), (2, 2))
    bigger.extra = nn.Linear(2, 2)
    smaller = small_model(("a", "b"), (2, 2))
    smaller.stem[0] = nn.Identity()
    assert_refused(seeded_trainer(tmp_path, bigger), r"does not fit the model, first at 'extra\.bias'")
    assert_refused(seeded_trainer(tmp_path, smaller), r"does not fit the model, first at 'stem\.0\.weight'")


def test_other_settings(tmp_path: Path) -> None:
    seeded_trainer(tmp_path).fit(max_steps=2)
    assert_refused(
        seeded_trainer(tmp_path, ema_decay=0.9),
        r"has ema_decay=None, this run ema_decay=0\.9",
    )
    assert_refused(seeded_trainer(tmp_path), "scheduled over 2 steps, this run's over 5", steps=5)
    model = small_model(("a", "b"), (2, 2))
    constant = seeded_trainer(tmp_path, model, optimizer=plain_sgd(model))
    assert_refused(constant, "scheduled over 2 steps, this run's over None")
    assert_refused(
        seeded_trainer(tmp_path, update="dataset"), "update='alternation', this run update='dataset'"
    )
    assert_refused(seeded_trainer(tmp_path, weights={"a": 0.5}), "this run weights=")
    adam = torch.optim.AdamW(model.parameters())
    assert_refused(
        seeded_trainer(tmp_path, model, optimizer=adam), "optimizer='SGD', this run optimizer='AdamW'"
    )


def test_a_constant_rate_can_be_extended(tmp_path: Path) -> None:
    for steps in (2, 5):
        model = small_model(("a", "b"), (2, 2))
        trainer = seeded_trainer(tmp_path, model, optimizer=plain_sgd(model))
        trainer.fit(max_steps=steps, resume=True)
        assert trainer.step == steps


def test_the_folder_of_another_run_is_not_touched(tmp_path: Path) -> None:
    seeded_trainer(tmp_path).fit(max_steps=2)
    with pytest.raises(ConfigError, match=r"step_00000002 is of another run; pass resume=True"):
        seeded_trainer(tmp_path).fit(max_steps=2)
    assert os.listdir(tmp_path / "checkpoints") == ["step_00000002"]


def test_shared_tensors_are_saved_once_and_come_back_shared(tmp_path: Path) -> None:
    model = small_model()
    model.again = model.stem
    save_checkpoint(checkpoint_path(tmp_path, 1), {"model": model}, STATE)
    other = small_model(seed=1)
    other.again = other.stem
    load_weights(tmp_path / "step_00000001", {"model": other})
    assert_equal_state(other.state_dict(), model.state_dict())
    assert other.again[0].weight is other.stem[0].weight


def test_keep_says_how_many_checkpoints_of_a_run_stay(tmp_path: Path) -> None:
    for keep, kept in ((1, [5]), (3, [3, 4, 5])):
        run_dir = tmp_path / str(keep)
        seeded_trainer(run_dir, checkpoint_every=1, keep=keep).fit(max_steps=5)
        assert sorted(os.listdir(run_dir / "checkpoints")) == [f"step_{step:08d}" for step in kept]


def test_saving_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="run_dir"):
        AlternationTrainer(small_model(), batches()).save_checkpoint()


def test_a_folder_of_the_users_is_no_checkpoint_and_is_never_removed(tmp_path: Path) -> None:
    save(tmp_path, 3)
    for name in ("step_best", "step_00000009_backup", "my_step_00000009"):
        shutil.copytree(tmp_path / "step_00000003", tmp_path / name)
    (tmp_path / "step_notes").write_text("remember")

    for step in (4, 5, 6):
        save(tmp_path, step)

    assert latest_checkpoint(tmp_path) == tmp_path / "step_00000006"
    assert sorted(os.listdir(tmp_path)) == [
        "my_step_00000009",
        "step_00000005",
        "step_00000006",
        "step_00000009_backup",
        "step_best",
        "step_notes",
    ]
