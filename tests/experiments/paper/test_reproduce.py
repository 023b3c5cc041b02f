"""The tables of the paper: planned as data, trained once, resumed, written beside the paper's numbers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import dabnn
from dabnn.data import ToyStreets
from dabnn.errors import ConfigError, DataError
from dabnn.experiments.config import load_config, parse_config, with_steps
from dabnn.experiments.demo.toy_folders import write_folder
from dabnn.experiments.methods import METHODS
from dabnn.experiments.paper import SCALES, load_experiment, load_tables, plan, reproduce
from dabnn.experiments.paper.distributions import divergence
from dabnn.experiments.results import read_rows
from dabnn.training import Callback

CITIES = ("northport", "oldtown")
PAPER_ONLY = {"table4a", "table4b", "table5_r101", "context"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", load_tables())
def test_every_table_has_an_experiment_with_known_methods(name, scale):
    table = load_tables()[name]
    if scale == "small" and name in PAPER_ONLY:
        with pytest.raises(ConfigError, match="only at"):
            load_experiment(table.experiment, scale)
        return
    config = load_experiment(table.experiment, scale)
    assert "cdcl" in {line.method for line in table.lines}
    for line in table.lines:
        assert METHODS[line.method].networks(config.datasets)
        assert len(line.paper) in (0, len(table.columns or table.datasets))
    assert not set(table.measured(config)) - set(config.datasets) - set(config.held_out)
    if not table.held_out_only:
        assert all(entry.branch in config.datasets for entry in config.held_out.values())
    assert not table.datasets or len(table.datasets) == len(config.datasets)


@pytest.mark.parametrize("scale", SCALES)
def test_all_methods_take_the_same_steps_and_settings(scale):
    tables = {n: t for n, t in load_tables().items() if scale == "paper" or n not in PAPER_ONLY}
    trainings = {load_experiment(table.experiment, scale).training for table in tables.values()}
    assert len(trainings) == 1


def test_the_papers_scale_is_the_papers_recipe():
    config = load_experiment("same_labels", "paper")
    assert config.images.crop == (512, 512)
    assert config.images.scale == (0.5, 2.1)
    training = config.training
    assert (training.optimizer, training.lr, training.weight_decay) == ("sgd", 0.01, 1e-4)
    assert (training.momentum, training.schedule, training.batch_size) == (0.9, "poly", 8)
    assert load_experiment("same_labels_r101_769", "paper").images.crop == (769, 769)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The experiment of Table 3, tiny; sunvale, with fewer classes, is only measured on."""
    root = tmp_path_factory.mktemp("data")
    splits = ("train", "val")
    for name, sources in (("northport", splits), ("oldtown", splits[::-1]), ("sunvale", splits)):
        city = "sunvale" if name == "sunvale" else "northport"  # the first two have the same classes
        scenes = {
            s: ToyStreets(city, o, size=(32, 64), length=4) for s, o in zip(splits, sources, strict=True)
        }
        write_folder(scenes, root / name)
    return parse_config(
        {
            "name": "same_labels",
            "datasets": {name: {"root": name, "space": "toy"} for name in CITIES},
            "data_dir": str(root),
            "model": {"architecture": "FPN", "encoder": "tu-test_resnet"},
            "images": {"crop": [32, 32]},
            "training": {"steps": 1, "batch_size": 2},
        }
    )


def held_out(config, root, branch=None, space="toy"):
    entry = {"root": root, "space": space, "evaluate": "val", "branch": branch}
    plain = {"name": config.name, "data_dir": config.data_dir, "held_out": {"other": entry}}
    for key in ("datasets", "model", "images", "training"):
        plain[key] = getattr(config, key)
    return parse_config(plain)


def rows_of(file):
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_a_table_holds_its_methods_and_seeds_beside_the_papers_numbers(small, tmp_path):
    (file,) = reproduce("table3", tmp_path, seeds=[0, 1], config=small)
    text = file.read_text()
    lines = {line.split(" | ")[0]: line for line in text.splitlines()}
    assert "northport | oldtown | mean | paper: Cityscapes | paper: BDD100K |" in lines["| mIoU %"]
    assert lines["| Private convolutions, shared BN, without DAT"].endswith("| 62.05 | 53.50 |")
    assert lines["| CDCL minus Private convolutions, shared BN, without DAT"].endswith("| +10.58 | +6.97 |")
    assert text.count("CDCL minus") == len(load_tables()["table3"].lines) - 1
    rows = rows_of(tmp_path / "small" / "table3.csv")
    assert len(rows) == len(load_tables()["table3"].lines) * 2 * len(CITIES)
    assert "<svg" in (tmp_path / "small" / "table3.svg").read_text()
    record = json.loads((tmp_path / "small" / "table3.json").read_text())
    assert record["config"]["training"]["steps"] == 1
    assert record["environments"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    (again,) = reproduce("table3", tmp_path, seeds=[0], config=small)
    assert again.read_text() != text  # one seed of the two
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")} == before


def test_lines_of_a_table_are_made_without_the_others(small, tmp_path):
    (file,) = reproduce("table3", tmp_path, seeds=[0], methods=["joint"], config=small)
    assert {row["method"] for row in rows_of(tmp_path / "small" / "table3.csv")} == {"joint", "cdcl"}
    assert "CDCL minus Shared BN, mixed batches" in file.read_text()
    planned = plan("table3", tmp_path, seeds=[0], methods=["joint"], config=small)
    assert {training.folder.name for training in planned} == {"joint-seed0", "cdcl-seed0"}
    assert all(training.finished for training in planned)


@pytest.mark.parametrize("name", ["table3", "table5", "figure3"])
def test_a_method_without_a_line_in_the_table_is_refused_before_any_training(small, tmp_path, name):
    with pytest.raises(ConfigError, match=rf"{name} has no lines of \['two_stage'\]"):
        reproduce(name, tmp_path, methods=["two_stage"], config=small)
    assert not any(tmp_path.iterdir())


def test_the_plan_names_each_training_once_and_what_is_there(small, tmp_path):
    before = plan("table6", tmp_path, config=small)
    assert not any(training.finished for training in before)
    assert len({training.folder for training in before}) == len(before)
    reproduce("table6", tmp_path, config=small)
    after = plan("table6", tmp_path, config=small)
    assert all(training.finished for training in after)
    assert {training.folder for training in after} == {f.parent for f in tmp_path.rglob("result.json")}
    assert sum(training.batches for training in after if "cdcl" in training.folder.name) == len(CITIES)


def test_the_plan_is_what_is_trained(small, tmp_path):
    batches = {
        "table6": ("two_stage", {"northport": 1, "two_stage-seed0": 1, "cdcl-seed0": 2}),
        "alternation": ("double_largest", {"double_largest-seed0": 3, "cdcl-seed0": 2}),
    }
    for name, (method, expected) in batches.items():
        planned = plan(name, tmp_path / name, methods=[method], config=small)
        assert {training.folder.name: training.batches for training in planned} == expected
        reproduce(name, tmp_path / name, methods=[method], config=small)
        made = {file.parent for file in (tmp_path / name).rglob("result.json")}
        assert {training.folder for training in planned} == made


def test_a_branch_is_measured_on_the_other_dataset_too(small, tmp_path):
    reproduce("table6", tmp_path, config=small)
    rows = {(r["method"], r["dataset"]): r for r in rows_of(tmp_path / "small" / "table6.csv")}
    (own,) = read_rows(tmp_path / "small" / "same_labels" / "single-seed0" / "northport")
    assert rows["single@northport", "northport"]["miou"] == f"{own.miou:.2f}"
    there = tmp_path / "small" / "same_labels" / "single-seed0" / "northport" / "measured"
    (measured,) = there.glob("*.json")
    assert measured.name == "northport-on-oldtown.json"
    assert rows["single@northport", "oldtown"]["miou"] == f"{json.loads(measured.read_text())['miou']:.2f}"
    assert len(rows) == 6 * 2


def test_an_unseen_dataset_is_measured_before_and_after_recalibration_and_once_only(small, tmp_path):
    config = held_out(small, "oldtown")
    (file,) = reproduce("table7", tmp_path, config=config)
    rows = rows_of(tmp_path / "small" / "table7.csv")
    assert [row["method"] for row in rows][::4] == ["single@northport", "single@northport+recalibrated"]
    assert {row["dataset"] for row in rows} == {"other"}
    text = file.read_text()
    lines = {line.split(" | ")[0]: line for line in text.splitlines()}
    assert lines["| CDCL, branch of northport, recalibrated"].endswith("| 59.05 |")
    titles = (f"{title}, branch of northport, recalibrated" for title in ("CDCL", "Single-dataset"))
    assert lines["| " + " minus ".join(titles)].endswith("| +4.40 |")
    assert "mean" not in text  # of one column
    measured = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("measured/*.json")}
    assert len(measured) == 8
    reproduce("table7", tmp_path, config=config)
    assert {path: path.stat().st_mtime_ns for path in measured} == measured


def test_held_out_splits_do_not_count_for_the_mean_and_do_not_train_again(small, tmp_path):
    reproduce("table2", tmp_path, seeds=[0], config=small)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    (file,) = reproduce("table2", tmp_path, seeds=[0], config=held_out(small, "oldtown", branch="oldtown"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")} == before
    values = {r["dataset"]: float(r["miou"]) for r in rows_of(tmp_path / "small" / "table2.csv")[:3]}
    assert values["other"] == values["oldtown"]  # the same split, by the same branch
    line = next(line for line in file.read_text().splitlines() if line.startswith("| Single-dataset"))
    mean = float(line.split("|")[5])  # after the name, two datasets and the held-out split
    assert mean == pytest.approx((values["northport"] + values["oldtown"]) / 2, abs=0.06)


def never_trained(*arguments, **options):
    pytest.fail("trained before everything was checked")


@pytest.mark.parametrize(
    ("root", "branch", "error", "message"),
    [
        ("oldtown", None, ConfigError, r"held_out.other .* must say whose branch"),
        ("oldtown", "northprt", ConfigError, r"held_out has the branches .*northprt"),
    ],
)
def test_held_out_splits_are_checked_before_any_training(
    small, tmp_path, monkeypatch, root, branch, error, message
):
    monkeypatch.setattr("dabnn.experiments.paper.reproduction.run_method", never_trained)
    with pytest.raises(error, match=message):
        reproduce("table2", tmp_path, seeds=[0], config=held_out(small, root, branch))


def test_a_missing_label_map_is_found_before_any_training(small, tmp_path, monkeypatch):
    monkeypatch.setattr("dabnn.experiments.paper.reproduction.run_method", never_trained)
    config = held_out(small, "sunvale", branch="oldtown", space="elsewhere")
    with pytest.raises(DataError, match="there is no label map toy to elsewhere"):
        reproduce("table2", tmp_path, seeds=[0], config=config)


def test_a_held_out_split_with_other_classes_is_refused(small, tmp_path):
    with pytest.raises(DataError, match="there is no label map between them"):
        reproduce("table2", tmp_path, seeds=[0], config=held_out(small, "sunvale", branch="oldtown"))


def test_a_measurement_is_repeated_with_other_data(small, tmp_path):
    reproduce("table6", tmp_path, config=small)
    (file,) = tmp_path.rglob("measured/northport-on-oldtown.json")
    before = json.loads(file.read_text())
    copy = Path(shutil.copytree(small.data_dir, tmp_path / "copy"))
    reproduce("table6", tmp_path, config=small, data_dir=copy)
    after = json.loads(file.read_text())
    assert after["of"] != before["of"]
    assert after["miou"] == before["miou"]


def test_what_another_version_measured_for_another_table_is_no_matter(small, tmp_path):
    reproduce("table6", tmp_path, config=small)
    for file in tmp_path.rglob("measured/*.json"):
        record = json.loads(file.read_text())
        del record["environment"], record["of"]["weights"]
        file.write_text(json.dumps(record))
    reproduce("table3", tmp_path, seeds=[0], config=small)
    (table,) = reproduce("table6", tmp_path, config=small)
    assert json.loads(table.with_suffix(".json").read_text())["environments"]


def test_a_measurement_is_repeated_with_other_weights_and_says_which_version_made_it(small, tmp_path):
    (table,) = reproduce("table6", tmp_path, config=small)
    record = json.loads(table.with_suffix(".json").read_text())
    (file,) = tmp_path.rglob("measured/northport-on-oldtown.json")
    before = json.loads(file.read_text())
    assert before["environment"] in record["environments"]
    folder = file.parents[1] / "model"
    model = dabnn.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    dabnn.save_pretrained(model, folder)
    reproduce("table6", tmp_path, config=small)
    assert json.loads(file.read_text())["of"] != before["of"]


class Killed(Exception):
    """Stands for whatever ends the process."""


def test_a_killed_reproduction_ends_with_the_same_table(small, tmp_path):
    config = with_steps(small, 3)
    (expected,) = reproduce("table3", tmp_path / "clean", seeds=[0], config=config)
    kills = iter([True, False, True])

    class Kill(Callback):
        def on_step_end(self, trainer, losses):
            if trainer.step == 2 and next(kills, False):
                raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            reproduce("table3", tmp_path / "killed", seeds=[0], config=config, callbacks=lambda: [Kill()])
    (file,) = reproduce("table3", tmp_path / "killed", seeds=[0], config=config)
    assert file.read_text() == expected.read_text()
    assert file.with_suffix(".csv").read_text() == expected.with_suffix(".csv").read_text()


def test_multiplications_are_the_same_after_conversion(tmp_path):
    reproduce("table5", tmp_path)
    rows = rows_of(tmp_path / "small" / "table5.csv")
    assert all(row["plain"] == row["converted"] for row in rows)
    # By hand for ResNet-18 at output stride 8: 385.0 for the backbone, 1024 -> 512 channels 3x3 at 128x256.
    assert float(rows[0]["plain"]) == pytest.approx(385.0 + 1024 * 512 * 9 * 128 * 256 / 1e9, abs=0.5)
    assert float(rows[1]["plain"]) == pytest.approx(3.375 * float(rows[0]["plain"]), rel=0.01)
    assert [row["network"] for row in rows[4:]] == [
        "pspnet_lite0_os16",
        "segformer_b0",
        "PSPNet of the small experiments",
    ]


def test_distributions_of_separately_trained_networks(small, tmp_path):
    (file,) = reproduce("figure3", tmp_path, config=small, seeds=[0, 1])
    rows = rows_of(tmp_path / "small" / "figure3.csv")
    assert [row["depth"] for row in rows] == ["low"] * 3 + ["middle"] * 3 + ["high"] * 3
    assert {row["quantity"] for row in rows} == {"weight", "running_mean", "running_var"}
    assert all(float(row["datasets"]) > 0 for row in rows if row["quantity"] == "running_mean")
    assert file.read_text().count("|") > 9 * 5
    assert "<svg" in (tmp_path / "small" / "figure3.svg").read_text()
    with pytest.raises(ConfigError, match="two seeds or more"):
        reproduce("figure3", tmp_path, config=small, seeds=[0])


def test_divergence_is_the_distance_of_sorted_values_in_standard_deviations():
    a = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert divergence(a, a.flip(0)) == 0
    b = a + 3
    assert divergence(a, b) == pytest.approx(3 / torch.cat([a, b]).std().item(), rel=1e-5)
    assert divergence(a, b) == pytest.approx(divergence(10 * a, 10 * b), rel=1e-5)


def test_parts_of_a_table_are_made_together_and_unknown_names_name_the_known_ones(small, tmp_path):
    with pytest.raises(ConfigError, match=r"no table 'table9'; there are table1a, .*figure3"):
        reproduce("table9", tmp_path)
    with pytest.raises(ConfigError, match="scale must be one of"):
        reproduce("table3", tmp_path, scale="tiny")
    with pytest.raises(ConfigError, match=r"only at \['paper'\]"):
        reproduce("table4", tmp_path)


def test_missing_data_asks_where_it_is(tmp_path):
    with pytest.raises(DataError, match=r"cityscapes-256.* --data or \$DABNN_DATA"):
        reproduce("table2", tmp_path, data_dir=tmp_path)


def test_an_empty_folder_of_a_split_that_is_only_measured_is_found_before_any_training(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr("dabnn.experiments.paper.reproduction.run_method", never_trained)
    (Path(small.data_dir) / "empty").mkdir(exist_ok=True)
    with pytest.raises(DataError, match="empty"):
        reproduce("table2", tmp_path, seeds=[0], config=held_out(small, "empty", branch="oldtown"))


def test_a_config_builds_on_another(tmp_path):
    (tmp_path / "base.yaml").write_text("training: {steps: 5, lr: 0.1}\nmodel: {encoder: resnet34}\n")
    own = "base: base.yaml\nname: own\ndatasets: {a: {root: a}}\ntraining: {lr: 0.2}\n"
    (tmp_path / "own.yaml").write_text(own)
    config = load_config(tmp_path / "own.yaml")
    assert (config.training.steps, config.training.lr, config.model.encoder) == (5, 0.2, "resnet34")
    (tmp_path / "lost.yaml").write_text("base: nowhere.yaml\nname: own\n")
    with pytest.raises(ConfigError, match=r"cannot read config .*nowhere.yaml"):
        load_config(tmp_path / "lost.yaml")
