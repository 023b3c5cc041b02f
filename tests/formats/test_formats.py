"""What was written by earlier versions of dabnn still loads, bit for bit."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from write_formats import NAMES, outputs_of, run_config, small_model, trainer_of

import dabnn
from dabnn.data import ToyStreets
from dabnn.errors import DabnnWarning
from dabnn.experiments.build import datasets as build
from dabnn.experiments.run import run_method
from dabnn.experiments.saved import load_run
from dabnn.models.stored.folder import info_of

FIRST = Path(__file__).parent / "first"


def assert_stored(model: nn.Module, file: Path) -> None:
    """Every tensor of the file is in the model, equal in all bits."""
    state = model.state_dict()
    for key, tensor in load_file(file).items():
        assert torch.equal(state[key], tensor), key


def test_a_saved_model_loads_and_answers_as_before() -> None:
    model = dabnn.from_pretrained(FIRST / "model")

    assert dabnn.dataset_names(model) == tuple(NAMES)
    assert_stored(model, FIRST / "model" / "model.safetensors")
    torch.testing.assert_close(outputs_of(model), load_file(FIRST / "outputs.safetensors"))


def test_a_saved_branch_loads_into_its_model() -> None:
    model = dabnn.from_pretrained(FIRST / "model")
    dabnn.remove_dataset(model, "south")

    assert dabnn.load_dataset(model, FIRST / "branch") == "south"
    assert_stored(model, FIRST / "model" / "model.safetensors")


def test_a_checkpoint_resumes_with_its_weights_average_and_momentum(tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(FIRST / "training", tmp_path / "training"))
    checkpoint = run_dir / "checkpoints" / "step_00000002"
    trainer = trainer_of(small_model(), run_dir)

    with pytest.warns(DabnnWarning, match="reading 2 batches forward"):
        trainer.fit(max_steps=2, resume=True)

    assert trainer.step == 2
    assert_stored(trainer.model, checkpoint / "model.safetensors")
    assert trainer.ema is not None
    assert_stored(trainer.ema.module, checkpoint / "ema.safetensors")
    saved = torch.load(checkpoint / "state.pt", weights_only=True)["optimizer"]["state"]
    now = trainer.optimizer.state_dict()["state"]
    assert now.keys() == saved.keys()
    assert all(torch.equal(now[key]["momentum_buffer"], saved[key]["momentum_buffer"]) for key in saved)


def test_a_finished_run_loads_with_its_weights_and_is_not_repeated(tmp_path: Path) -> None:
    runs = Path(shutil.copytree(FIRST / "runs", tmp_path / "runs"))
    before = {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()}

    saved = load_run(runs / "cdcl-seed0")
    rows = run_method(run_config(), "cdcl", 0, runs)

    assert_stored(saved.model, FIRST / "runs" / "cdcl-seed0" / "model.safetensors")
    assert {row.dataset: f"{row.miou:.2f}" for row in rows} == {
        name: f"{known.metrics['miou']:.2f}" for name, known in info_of(saved.model).datasets.items()
    }
    assert {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()} == before


def test_an_interrupted_run_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "ToyStreets", partial(ToyStreets, length=6))
    runs = Path(shutil.copytree(FIRST / "runs", tmp_path / "runs"))
    for name in ("result.json", "model.safetensors"):
        (runs / "cdcl-seed0" / name).unlink()

    run_method(run_config(), "cdcl", 0, runs)

    assert_stored(load_run(runs / "cdcl-seed0").model, FIRST / "runs" / "cdcl-seed0" / "model.safetensors")
