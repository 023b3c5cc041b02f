from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dabnn
from dabnn.data import READERS, JoinedDataset, ToyStreets, open_dataset
from dabnn.errors import CheckpointError, ConfigError, DataError
from dabnn.experiments.config import parse_config
from dabnn.experiments.demo.run import DemoResult
from dabnn.experiments.demo.toy_folders import write_folder
from dabnn.experiments.describe import describe_dataset, describe_run
from dabnn.experiments.methods import get_method
from dabnn.experiments.run import run_method
from dabnn.experiments.saved import evaluate_run, load_model, load_run
from dabnn.models import DatasetInfo
from dabnn.models.stored.folder import info_of

FORMATS = Path(__file__).parents[1] / "formats" / "first"


@pytest.fixture
def copied(cdcl_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cdcl_run, tmp_path / "run"))


def change(folder: Path, action: Callable[[dict[str, Any]], object], name: str = "result.json") -> None:
    record = json.loads((folder / name).read_text())
    action(record)
    (folder / name).write_text(json.dumps(record))


def test_a_loaded_run_measures_what_the_training_measured(
    tiny_demo: DemoResult, demo_folder: Path, cdcl_run: Path
) -> None:
    results = evaluate_run(cdcl_run, data_dir=demo_folder / "data")

    stored = {row.dataset: row.miou for row in tiny_demo.rows if row.method == "cdcl"}
    assert {name: result.miou for name, result in results.items()} == pytest.approx(stored, abs=1e-9)


def test_a_loaded_run_knows_the_classes_colours_and_result_of_each_dataset(
    tiny_demo: DemoResult, cdcl_run: Path
) -> None:
    known = info_of(load_run(cdcl_run).model).datasets["oldtown"]

    (row,) = (row for row in tiny_demo.rows if (row.method, row.dataset) == ("cdcl", "oldtown"))
    toy = ToyStreets("oldtown")
    assert (known.classes, known.palette) == (toy.classes, toy.palette)
    assert known.metrics == {"miou": row.miou}
    assert known.split == "val"
    assert known.size == (64, 128)
    assert known.licence == ""


def test_a_card_says_how_the_network_began_and_names_the_paper_for_its_method_only(cdcl_run: Path) -> None:
    info = info_of(load_run(cdcl_run).model)

    assert "2103.11351" in info.paper
    assert "Initialisation: random weights." in info.recipe
    assert "Loss weights" not in info.recipe
    assert info_of(load_run(cdcl_run.parent / "shared_bn-seed0").model).paper == ""


def test_terms_of_the_data_are_those_of_its_reader_and_unmeasured_datasets_have_no_value() -> None:
    config = parse_config(
        {"name": "a", "datasets": {"b": {"root": "b", "kind": "camvid"}, "c": {"root": "c"}}}
    )
    toy = ToyStreets("oldtown", length=2)

    described = [describe_dataset(config, name, toy, miou) for name, miou in (("b", nan), ("c", 50.0))]

    assert [dataset.licence for dataset in described] == [READERS["camvid"].licence, ""]
    assert [dataset.metrics for dataset in described] == [{}, {"miou": 50.0}]


def test_a_card_says_where_pretrained_weights_are_from_and_the_weights_of_losses() -> None:
    datasets = {"b": {"root": "b", "weight": 1.9}, "c": {"root": "c"}}
    config = parse_config({"name": "a", "datasets": datasets, "model": {"weights": "imagenet"}})

    recipe = describe_run(config, get_method("cdcl"), 5, dict.fromkeys("bc", DatasetInfo.numbered(2))).recipe

    assert "Method: CDCL, 5 steps. Initialisation: ImageNet weights for the encoder." in recipe
    assert recipe.endswith("Loss weights: b 1.9, c 1.")


def test_the_size_of_images_is_told_if_they_have_one(tmp_path: Path) -> None:
    streets = [ToyStreets("sunvale", "val", size=size, length=1) for size in ((32, 64), (32, 64), (64, 64))]
    for number, dataset in enumerate(streets):
        write_folder({"val": dataset}, tmp_path / str(number))
    config = parse_config({"name": "a", "datasets": {"b": {"root": "b"}}})
    folders = [open_dataset("folder", tmp_path / name, "val") for name in "012"]

    sizes = [
        describe_dataset(config, "b", JoinedDataset(part, "b"), 1.0).size for part in (folders[:2], folders)
    ]

    assert sizes == [(32, 64), None]


@pytest.mark.parametrize("method", ["shared_bn-seed0", "single-seed0/oldtown"])
def test_runs_of_every_method_load(cdcl_run: Path, method: str) -> None:
    model, config = load_run(cdcl_run.parent / method)
    datasets = info_of(model).datasets

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


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "pickle"])
def test_damaged_weights_are_refused(copied: Path, damage: str) -> None:
    weights = copied / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if damage == "truncated":
        weights.write_bytes(content[:-100])
    elif damage == "flipped":
        weights.write_bytes(flip(content, len(content) - 50))
    elif damage == "pickle":
        torch.save({"a": torch.zeros(1)}, weights)

    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_run(copied)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"config": {"model": {}}, "rows": []}'])
def test_damaged_results_are_refused(copied: Path, content: str) -> None:
    (copied / "result.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"result\.json"):
        load_run(copied)


def test_a_config_of_a_stranger_names_no_file_and_no_address(tmp_path: Path) -> None:
    """Neither in the model folder of a run, nor in the config that an old run is built from."""
    run = Path(shutil.copytree(FORMATS / "runs" / "cdcl-seed0", tmp_path / "old"))
    for key, value in (
        ("arguments", {"checkpoint_path": str(tmp_path / "evil.pt")}),
        ("encoder", "tu-hf-hub:someone/something"),
        ("encoder", "tu-local-dir:evil"),
        ("architecture", "from_pretrained"),
    ):
        record = json.loads((FORMATS / "runs" / "cdcl-seed0" / "result.json").read_text())
        record["config"]["model"][key] = value
        (run / "result.json").write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match=r"is not asked for|has no model"):
            load_run(run)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    run = Path(shutil.copytree(FORMATS / "runs" / "cdcl-seed0", tmp_path / "old"))
    change(run, lambda record: record["config"]["model"]["arguments"].update(psp_out_channels=16))

    with pytest.raises(CheckpointError, match=r"8.* in the checkpoint, .*16.* in the model"):
        load_run(run)


@pytest.mark.parametrize("load", [load_model, dabnn.from_pretrained])
def test_a_run_is_a_model_like_any_other(load: Callable[[Path], nn.Module], cdcl_run: Path) -> None:
    for source in (cdcl_run, cdcl_run / "model"):
        model = load(source)

        assert dabnn.dataset_names(model) == ("northport", "oldtown", "sunvale")
        assert info_of(model) == dabnn.get_pretrained_cfg(source)


def test_a_run_of_an_earlier_version_says_what_to_do() -> None:
    with pytest.raises(CheckpointError, match=r"earlier dabnn: .*`dabnn publish .* --folder NEW_FOLDER`"):
        dabnn.from_pretrained(FORMATS / "runs" / "cdcl-seed0")


def test_a_model_that_does_not_know_its_data_asks_for_it(cdcl_run: Path) -> None:
    with pytest.raises(ConfigError, match="say with --on FOLDER"):
        evaluate_run(cdcl_run / "model")


def test_data_with_other_classes_is_refused(cdcl_run: Path, demo_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(demo_folder / "data", tmp_path / "data")
    classes = json.loads((data / "oldtown" / "classes.json").read_text())
    classes["classes"].reverse()
    (data / "oldtown" / "classes.json").write_text(json.dumps(classes))

    with pytest.raises(DataError, match=r"'oldtown' has the classes"):
        evaluate_run(cdcl_run, data_dir=data)


@pytest.mark.parametrize("content", ["", "{}", "missing"])
def test_a_damaged_config_of_a_runs_model_is_named(copied: Path, content: str) -> None:
    config = copied / "model" / "config.json"
    config.unlink()
    if content != "missing":
        config.write_text(content)

    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_run(copied)
