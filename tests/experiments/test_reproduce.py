"""The tables of the paper: planned as data, trained once, resumed, written beside the paper's numbers."""

from __future__ import annotations

import csv

import pytest

from dabnn.data import ToyStreets
from dabnn.errors import ConfigError
from dabnn.experiments.config import load_config, parse_config
from dabnn.experiments.methods import METHODS
from dabnn.experiments.reproduce import load_experiment, load_tables, reproduce
from dabnn.experiments.toy_folders import write_folder

CITIES = ("northport", "sunvale")


@pytest.mark.parametrize("name", load_tables())
def test_every_table_has_an_experiment_with_known_methods(name):
    table = load_tables()[name]
    config = load_experiment(table.experiment)
    assert config.name == table.experiment
    assert "cdcl" in table.methods
    for method in table.methods:
        assert METHODS[method].networks(config.datasets)
    assert all(len(values) == len(table.columns) for values in table.paper.values())
    assert not table.paper or table.paper.keys() == set(table.methods)


def test_all_methods_of_an_experiment_take_the_same_steps_and_settings():
    trainings = {load_experiment(table.experiment).training for table in load_tables().values()}
    assert len(trainings) == 1


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The experiment of Table 3, tiny."""
    root = tmp_path_factory.mktemp("data")
    for name in CITIES:
        write_folder({s: ToyStreets(name, s, size=(32, 64), length=4) for s in ("train", "val")}, root / name)
    return parse_config(
        {
            "name": "same_labels",
            "datasets": {name: {"root": name} for name in CITIES},
            "data_dir": str(root),
            "model": {"architecture": "FPN", "encoder": "tu-test_resnet"},
            "images": {"crop": [32, 32]},
            "training": {"steps": 1, "batch_size": 2},
        }
    )


def test_a_table_holds_its_methods_and_seeds_beside_the_papers_numbers(small, tmp_path):
    file = reproduce("table3", tmp_path, seeds=[0, 1], config=small)
    text = file.read_text()
    assert "| Private convolutions, shared BN | 62.05 | 53.50 |" in text
    assert text.count("CDCL minus") == 4
    with (tmp_path / "table3.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(load_tables()["table3"].methods) * 2 * len(CITIES)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    assert reproduce("table3", tmp_path, seeds=[0], config=small).read_text() != text  # one seed of the two
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")} == before


def test_unknown_tables_name_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="no table 'table9'; there are table1a"):
        reproduce("table9", tmp_path)


def test_missing_data_asks_where_it_is(tmp_path):
    with pytest.raises(ConfigError, match=r"camvid-320, .*are not there: say with --data"):
        reproduce("table2", tmp_path, data_dir=tmp_path)


def test_a_config_builds_on_another(tmp_path):
    (tmp_path / "base.yaml").write_text("training: {steps: 5, lr: 0.1}\nmodel: {encoder: resnet34}\n")
    own = "base: base.yaml\nname: own\ndatasets: {a: {root: a}}\ntraining: {lr: 0.2}\n"
    (tmp_path / "own.yaml").write_text(own)
    config = load_config(tmp_path / "own.yaml")
    assert (config.training.steps, config.training.lr, config.model.encoder) == (5, 0.2, "resnet34")
    (tmp_path / "lost.yaml").write_text("base: nowhere.yaml\nname: own\n")
    with pytest.raises(ConfigError, match=r"cannot read config .*nowhere.yaml"):
        load_config(tmp_path / "lost.yaml")
