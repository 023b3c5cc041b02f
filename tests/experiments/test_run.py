"""Trainings from a config: one table, resumed when killed, not repeated when finished, paired by seed."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage
from safetensors import SafetensorError
from safetensors.torch import load_file

import dabnn
from dabnn.data import FolderDataset, ToyStreets
from dabnn.errors import CheckpointError, ConfigError
from dabnn.experiments import run
from dabnn.experiments.build import build_training_split
from dabnn.experiments.config import Config, parse_config, to_dict, with_steps
from dabnn.experiments.demo.toy_folders import write_folder
from dabnn.experiments.methods import METHODS, get_method
from dabnn.experiments.results import write_table
from dabnn.experiments.run import run_method, run_with
from dabnn.experiments.saved import load_model, load_run
from dabnn.experiments.trainer import build_trainer
from dabnn.experiments.transfer import transfer
from dabnn.training import Callback

CITIES = ("northport", "sunvale")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in CITIES:
        write_folder({s: ToyStreets(name, s, size=(32, 64), length=4) for s in ("train", "val")}, root / name)
    return root


CONFIG = parse_config(
    {
        "name": "tiny",
        "datasets": {name: {"root": name} for name in CITIES},
        "model": {"architecture": "FPN", "encoder": "tu-test_resnet"},
        "images": {"crop": [32, 32]},
        "training": {"steps": 2, "batch_size": 2, "checkpoint_every": 1},
    }
)


ELSEWHERE = {"encoder_norms", "remap"}  # this decoder has no batch norm; these label spaces have no map


ALWAYS = {"cdcl", "single_steps", "private_conv"}


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow)
        for name in METHODS
        if name not in ELSEWHERE
    ],
)
def test_every_method_gives_a_row_per_dataset(method, data_dir, tmp_path):
    rows = run_method(CONFIG, method, 3, tmp_path, data_dir=data_dir)
    assert [(row.method, row.dataset, row.seed, row.steps) for row in rows] == [
        (method, name, 3, 4 if method == "single_steps" else 2) for name in CITIES
    ]
    assert all(0 <= row.miou <= 100 for row in rows)


def test_controls_change_the_learning_rate_the_weights_and_the_ratios_alone(data_dir, tmp_path):
    sizes = {"northport": 4, "sunvale": 2}
    datasets = {
        name: FolderDataset(data_dir / name, "train", name=name)
        if size == 4
        else ToyStreets(name, "train", length=2)
        for name, size in sizes.items()
    }
    trainers = {
        method: build_trainer(CONFIG, get_method(method), 0, datasets, tmp_path / method)
        for method in ("cdcl", "mean_loss", "weighted_by_size", "double_largest")
    }
    one = {"northport": datasets["northport"]}
    single = build_trainer(CONFIG, get_method("single_lr"), 0, one, tmp_path / "single_lr")
    assert single.optimizer.param_groups[0]["lr"] == 2 * trainers["cdcl"].optimizer.param_groups[0]["lr"]
    assert trainers["cdcl"].loaders.weights == {"northport": 1, "sunvale": 1}
    assert trainers["mean_loss"].loaders.weights == {"northport": 0.5, "sunvale": 0.5}
    assert trainers["weighted_by_size"].loaders.weights == pytest.approx(
        {"northport": 4 / 3, "sunvale": 2 / 3}
    )
    assert trainers["double_largest"].loaders.ratios == {"northport": 2, "sunvale": 1}
    assert {t.loaders.ratios["sunvale"] for t in trainers.values()} == {1}


def folder_of(out: Path, method: str, dataset: str = CITIES[0]) -> Path:
    return run_with(CONFIG, method, 0, dataset, out).folder


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_two_stages_leave_the_first_dataset_as_it_was_only_if_convolutions_are_frozen(data_dir, tmp_path):
    rows = {
        method: run_method(CONFIG, method, 0, tmp_path, data_dir=data_dir)
        for method in ("single", "two_stage_frozen", "two_stage_copied", "two_stage", "finetune")
    }
    first, _ = rows["single"]
    assert rows["two_stage_frozen"][0].miou == first.miou
    single = state_of(folder_of(tmp_path, "single"))
    for method, same in (("two_stage_frozen", True), ("two_stage_copied", True), ("two_stage", False)):
        state = state_of(folder_of(tmp_path, method))
        assert all(torch.equal(state[key], single[key]) for key in single) is same
    finetuned = state_of(folder_of(tmp_path, "finetune", CITIES[1]))
    assert finetuned.keys() == state_of(folder_of(tmp_path, "single", CITIES[1])).keys()


def test_finetuning_starts_from_the_network_of_the_other_dataset(data_dir, tmp_path):
    run_method(CONFIG, "single", 0, tmp_path, data_dir=data_dir)
    start = folder_of(tmp_path, "single")
    model = transfer(load_model(start), {"sunvale": 7}, keep=False, reset=False, freeze=False)
    single, state = state_of(start), model.state_dict()
    heads = {key for key in state if "heads" in key}
    assert heads
    assert all(torch.equal(state[key], single[key]) for key in state.keys() - heads)
    copied = transfer(load_model(start), {"sunvale": 7}, keep=True, reset=False, freeze=True).state_dict()
    norms = {key for key in copied if ".bns.1." in key}
    assert norms
    assert all(torch.equal(copied[key], copied[key.replace(".bns.1.", ".bns.0.")]) for key in norms)
    kept = transfer(load_model(start), {"sunvale": 7}, keep=True, reset=True, freeze=True)
    new = dabnn.extract_dataset(kept, "sunvale")
    fresh = [module for module in new.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all((norm.running_var == 1).all() and (norm.weight == 1).all() for norm in fresh)
    for key, parameter in kept.named_parameters():
        assert parameter.requires_grad == (".bns.1." in key or ".heads.1." in key), key


def test_label_remapping_with_a_map_of_ones_own(data_dir, tmp_path, monkeypatch):
    north, sun = (FolderDataset(data_dir / name, "train") for name in CITIES)
    (data_dir / "map.json").write_text(json.dumps({"classes": dict.fromkeys(north.classes, sun.classes[1])}))
    data = to_dict(CONFIG)
    data["datasets"]["sunvale"]["maps"] = {"northport": "map.json"}
    mixed = build_training_split(parse_config(data), "sunvale", ("northport",), data_dir)
    assert (len(mixed), mixed.classes) == (len(north) + len(sun), sun.classes)
    assert set(mixed[len(sun)]["mask"].unique().tolist()) <= {1, 255}


@pytest.mark.data
def test_label_remapping_mixes_the_other_datasets_in(data_root, tmp_path):
    parts = {"train": "val", "evaluate": "val"}
    datasets = {
        "cityscapes": {"kind": "cityscapes", "root": "cityscapes-raw-sample", **parts},
        "camvid": {"kind": "camvid", "root": "camvid-raw-sample", **parts},
    }
    data = {**to_dict(CONFIG), "datasets": datasets}
    data["training"] = {**data["training"], "steps": 1}
    config = parse_config(data)
    assert [row.dataset for row in run_method(config, "remap", 0, tmp_path, data_dir=data_root)] == list(
        datasets
    )
    joined = build_training_split(config, "camvid", ["cityscapes"], data_root)
    assert (joined.name, len(joined), len(joined.classes)) == ("camvid", 3, 11)
    assert set(joined[2]["mask"].unique().tolist()) <= {*range(11), 255}


def test_transfer_takes_two_datasets():
    with pytest.raises(
        ConfigError, match=r"'Finetuning' goes from one dataset to another, there are \['a'\]"
    ):
        METHODS["finetune"].networks(["a"])


def test_finished_runs_are_not_repeated(data_dir, tmp_path, monkeypatch):
    rows = run_method(CONFIG, "cdcl", 0, tmp_path, data_dir=data_dir)
    monkeypatch.setattr(run, "build_trainer", lambda *arguments: pytest.fail("trained again"))
    assert run_method(CONFIG, "cdcl", 0, tmp_path, data_dir=data_dir) == rows


def test_a_changed_config_neither_resumes_nor_overwrites_another_training(data_dir, tmp_path):
    rows = run_method(CONFIG, "cdcl", 0, tmp_path, data_dir=data_dir)
    with pytest.raises(ConfigError, match="another configuration"):
        run_method(with_steps(CONFIG, 3), "cdcl", 0, tmp_path, data_dir=data_dir)
    assert run_method(CONFIG, "cdcl", 0, tmp_path, data_dir=data_dir) == rows


class Interrupt(Callback):
    def on_step_end(self, trainer, losses):
        if trainer.step == 2:  # the checkpoint of step 1 is written, that of step 2 is not
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_like_an_uninterrupted_one(data_dir, tmp_path):
    config = with_steps(CONFIG, 3)
    with pytest.raises(KeyboardInterrupt):
        run_method(config, "cdcl", 0, tmp_path / "a", data_dir=data_dir, callbacks=lambda: [Interrupt()])
    resumed = run_method(config, "cdcl", 0, tmp_path / "a", data_dir=data_dir)
    assert resumed == run_method(config, "cdcl", 0, tmp_path / "b", data_dir=data_dir)
    weights = [(tmp_path / name / "cdcl-seed0" / "model" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_methods_see_the_same_batches_of_a_dataset(data_dir, tmp_path):
    together = {name: FolderDataset(data_dir / name, "train") for name in CITIES}
    alone = {"sunvale": together["sunvale"]}
    batches = []
    for datasets, method in ((together, "cdcl"), (alone, "single")):
        trainer = build_trainer(CONFIG, get_method(method), 5, datasets, tmp_path / method)
        draws = [trainer.loaders.draw() for _ in range(3)]
        batches.append([d.batch["image"] for step in draws for d in step if d.dataset == "sunvale"])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_table_collects_all_runs_and_results_say_how_they_were_made(data_dir, tmp_path):
    for method in ("single", "cdcl"):
        run_method(CONFIG, method, 0, tmp_path, data_dir=data_dir)
    run_method(with_steps(CONFIG, 1), "no_dat", 0, tmp_path, data_dir=data_dir)  # another experiment
    write_table(tmp_path, tmp_path / "table.csv", CONFIG)
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["method", "dataset", "seed", "steps", "miou"]
    assert [(row["method"], row["dataset"]) for row in rows] == [
        (method, name) for method in ("cdcl", "single") for name in CITIES
    ]
    (environment,) = json.loads((tmp_path / "table.json").read_text())["environments"]
    assert environment.keys() >= {"dabnn", "commit", "torch", "timm"}
    record = json.loads((folder_of(tmp_path, "cdcl") / "result.json").read_text())
    assert set(record["iou"]) == set(CITIES)


def test_unknown_method_is_named_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"'cdlc'.*'cdcl'"):
        run_method(CONFIG, "cdlc", 0, tmp_path)


def test_images_of_different_sizes_are_evaluated(data_dir, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data_dir, root)
    for kind in ("images", "labels"):
        path = root / CITIES[0] / kind / "val" / "0000.png"
        with PILImage.open(path) as picture:
            picture.crop((0, 0, 50, 20)).save(path)
    assert len(run_method(CONFIG, "cdcl", 0, tmp_path / "runs", data_dir=root)) == 2


@pytest.mark.parametrize("file", ["result.json", "experiment.json"])
def test_a_torn_file_does_not_block_an_experiment(file, data_dir, tmp_path):
    expected = run_method(CONFIG, "cdcl", 0, tmp_path, data_dir=data_dir)
    path = folder_of(tmp_path, "cdcl") / file
    path.write_text(path.read_text()[:100])
    assert run_method(CONFIG, "cdcl", 0, tmp_path, data_dir=data_dir) == expected
    assert len(write_table(tmp_path, tmp_path / "table.csv", CONFIG)) == 2


def test_a_full_disk_leaves_no_half_result(data_dir, tmp_path, monkeypatch):
    def full(model, path):
        Path(path).write_bytes(b"half")
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr("dabnn.models.stored.folder.save_model", full)
    with pytest.raises(CheckpointError, match=r"could not write .*model.*No space left"):
        run_method(CONFIG, "cdcl", 0, tmp_path, data_dir=data_dir)
    left = {path.name for path in folder_of(tmp_path, "cdcl").iterdir()}
    assert left == {"checkpoints", "experiment.json", "metrics.csv", "tensorboard"}
    monkeypatch.undo()
    assert len(run_method(CONFIG, "cdcl", 0, tmp_path, data_dir=data_dir)) == 2


def with_training(**changes: object) -> Config:
    return replace(CONFIG, training=replace(CONFIG.training, **changes))


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_recalibrated_networks_have_the_statistics_of_whole_training_images(data_dir, tmp_path, ema_decay):
    config = with_training(recalibrate=True, ema_decay=ema_decay, batch_size=4)
    run_method(config, "cdcl", 0, tmp_path, data_dir=data_dir)
    saved = load_run(folder_of(tmp_path, "cdcl"))
    for name in CITIES:
        dataset = FolderDataset(data_dir / name, "train")
        plain = dabnn.extract_dataset(saved.model, name)
        images = torch.cat(
            [dabnn.preprocess(saved.model, sample["image"].as_subclass(torch.Tensor)) for sample in dataset]
        )
        norm = next(module for module in plain.modules() if isinstance(module, torch.nn.BatchNorm2d))
        seen: list[torch.Tensor] = []
        norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            plain(images)
        (features,) = seen
        torch.testing.assert_close(norm.running_mean, features.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, features.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_shared_norms_are_not_recalibrated(data_dir, tmp_path):
    with pytest.raises(ConfigError, match="'shared_bn' shares some"):
        run_method(with_training(recalibrate=True), "shared_bn", 0, tmp_path, data_dir=data_dir)
    assert not list(tmp_path.iterdir())


def test_a_run_of_a_version_with_fewer_settings_counts(data_dir, tmp_path):
    run_method(CONFIG, "cdcl", 0, tmp_path, data_dir=data_dir)
    folder = folder_of(tmp_path, "cdcl")
    weights = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    for name in ("experiment.json", "result.json"):
        record = json.loads((folder / name).read_text())
        del record.get("config", record)["training"]["recalibrate"]
        (folder / name).write_text(json.dumps(record))
    run_method(CONFIG, "cdcl", 0, tmp_path, data_dir=data_dir)
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == weights
    assert len(write_table(tmp_path, tmp_path / "x.csv", CONFIG)) == len(CITIES)
    with pytest.raises(ConfigError, match="another configuration"):
        run_method(with_training(recalibrate=True), "cdcl", 0, tmp_path, data_dir=data_dir)
