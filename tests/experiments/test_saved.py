from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dabnn
from dabnn.data import READERS, ToyStreets
from dabnn.errors import CheckpointError, DataError
from dabnn.experiments.config import parse_config
from dabnn.experiments.demo.run import DemoResult
from dabnn.experiments.demo.toy_folders import write_folder
from dabnn.experiments.run import run_method
from dabnn.experiments.saved import evaluate_run, load_run
from dabnn.models.stored.folder import info_of


@pytest.fixture
def copied(cdcl_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cdcl_run, tmp_path / "run"))


def change(folder: Path, action: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / "result.json").read_text())
    action(record)
    (folder / "result.json").write_text(json.dumps(record))


def test_a_loaded_run_measures_what_the_training_measured(
    tiny_demo: DemoResult, demo_folder: Path, cdcl_run: Path
) -> None:
    results = evaluate_run(cdcl_run, data_dir=demo_folder / "data")

    stored = {row.dataset: row.miou for row in tiny_demo.rows if row.method == "cdcl"}
    assert {name: result.miou for name, result in results.items()} == pytest.approx(stored, abs=1e-9)


def test_a_loaded_run_knows_the_classes_colours_and_result_of_each_dataset(
    tiny_demo: DemoResult, cdcl_run: Path
) -> None:
    known = load_run(cdcl_run).datasets["oldtown"]

    (row,) = (row for row in tiny_demo.rows if (row.method, row.dataset) == ("cdcl", "oldtown"))
    toy = ToyStreets("oldtown")
    assert (known.classes, known.palette) == (toy.classes, toy.palette)
    assert known.metrics == {"miou": row.miou}
    assert known.split == "val"
    assert known.size == (64, 128)
    assert known.licence == ""


def test_results_that_do_not_say_the_size_of_images_load(copied: Path) -> None:
    change(copied, lambda record: record["datasets"]["oldtown"].pop("size"))

    datasets = load_run(copied).datasets
    assert [datasets[name].size for name in ("northport", "oldtown")] == [(64, 128), None]


def test_terms_of_the_data_are_those_of_its_reader_and_unmeasured_datasets_have_no_value(
    copied: Path,
) -> None:
    def changed(record: dict[str, Any]) -> None:
        record["config"]["datasets"]["oldtown"]["kind"] = "camvid"
        record["rows"][0]["miou"] = float("nan")

    change(copied, changed)
    datasets = load_run(copied).datasets
    assert datasets["oldtown"].licence == READERS["camvid"].licence
    assert datasets["northport"].metrics == {}


def test_a_card_says_how_the_network_began_and_names_the_paper_for_its_method_only(
    cdcl_run: Path, copied: Path
) -> None:
    info = info_of(load_run(copied).model)
    assert "2103.11351" in info.paper
    assert "Initialisation: random weights." in info.recipe
    change(copied, lambda record: record["config"]["model"].update(weights="imagenet"))
    assert "Initialisation: ImageNet weights for the encoder." in info_of(load_run(copied).model).recipe
    assert info_of(load_run(cdcl_run.parent / "shared_bn-seed0").model).paper == ""


def test_a_card_says_the_loss_weights_of_datasets_that_do_not_count_alike(copied: Path) -> None:
    assert "Loss weights" not in info_of(load_run(copied).model).recipe
    change(copied, lambda record: record["config"]["datasets"]["oldtown"].update(weight=1.9))
    recipe = info_of(load_run(copied).model).recipe
    assert recipe.endswith("Loss weights: northport 1, oldtown 1.9, sunvale 1.")


@pytest.mark.parametrize("method", ["shared_bn-seed0", "single-seed0/oldtown"])
def test_runs_of_every_method_load(cdcl_run: Path, method: str) -> None:
    model, config, datasets = load_run(cdcl_run.parent / method)

    assert dabnn.dataset_names(model) == tuple(datasets)
    assert not model.training
    assert config.training.steps == 10
    with dabnn.use_dataset(model, "oldtown"), torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 128)).shape == (1, len(datasets["oldtown"].classes), 64, 128)


@pytest.mark.parametrize("method", ["encoder_norms", "decoder_norms"])
def test_a_run_loads_with_the_norms_that_its_method_made_private(method: str, tmp_path: Path) -> None:
    streets = ToyStreets("sunvale", "val", size=(32, 64), length=4)
    write_folder({"train": streets, "val": streets}, tmp_path / "sunvale")
    config = parse_config(
        {
            "name": "tiny",
            "datasets": {name: {"root": "sunvale"} for name in ("a", "b")},
            "model": {"library": "dabnn", "encoder": "test_resnet", "arguments": {"channels": 8}},
            "images": {"crop": [32, 32]},
            "training": {"steps": 1, "batch_size": 2},
        }
    )
    (row, _) = run_method(config, method, 0, tmp_path, data_dir=tmp_path)

    results = evaluate_run(tmp_path / f"{method}-seed0", data_dir=tmp_path)

    assert results["a"].miou == pytest.approx(row.miou, abs=1e-9)


def test_a_folder_without_a_result_says_what_to_do(cdcl_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no finished training.*train first"):
        load_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"choose one of .*northport.*oldtown"):
        load_run(cdcl_run.parent / "single-seed0")


@pytest.mark.parametrize("damage", ["truncated", "missing", "pickle"])
def test_damaged_weights_are_refused(copied: Path, damage: str) -> None:
    weights = copied / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if damage == "truncated":
        weights.write_bytes(content[:-100])
    elif damage == "pickle":
        torch.save({"a": torch.zeros(1)}, weights)

    with pytest.raises(CheckpointError, match=str(weights)):
        load_run(copied)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"config": {"model": {}}, "rows": []}', "no palette"])
def test_damaged_results_are_refused(copied: Path, content: str) -> None:
    if content == "no palette":
        record = json.loads((copied / "result.json").read_text())
        record["datasets"]["oldtown"]["palette"] = [[0, 0]]
        content = json.dumps(record)
    (copied / "result.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"result\.json"):
        load_run(copied)


def test_weights_of_another_model_are_refused(copied: Path) -> None:
    record = json.loads((copied / "result.json").read_text())
    record["config"]["model"]["arguments"]["decoder_channels"] = 32
    (copied / "result.json").write_text(json.dumps(record))

    with pytest.raises(CheckpointError, match=r"48.* in the checkpoint, .*32.* in the model"):
        load_run(copied)


def test_data_with_other_classes_is_refused(cdcl_run: Path, demo_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(demo_folder / "data", tmp_path / "data")
    classes = json.loads((data / "oldtown" / "classes.json").read_text())
    classes["classes"].reverse()
    (data / "oldtown" / "classes.json").write_text(json.dumps(classes))

    with pytest.raises(DataError, match=r"'oldtown' has the classes"):
        evaluate_run(cdcl_run, data_dir=data)
