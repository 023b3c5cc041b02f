"""A config file is what it says: paper defaults, strict keys, readable errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dabnn.errors import ConfigError
from dabnn.experiments.config import load_config, parse_config, to_dict, with_steps

EXAMPLES = Path(__file__).parents[2] / "examples" / "configs"
MINIMAL = {"name": "x", "datasets": {"a": {"root": "a"}, "b": {"root": "b"}}}


def test_defaults_are_the_papers_settings():
    training = parse_config(MINIMAL).training
    assert (training.optimizer, training.lr, training.momentum) == ("sgd", 0.01, 0.9)
    assert (training.weight_decay, training.schedule, training.batch_size) == (1e-4, "poly", 8)
    images = parse_config(MINIMAL).images
    assert (images.crop, images.scale, images.flip) == ((512, 512), (0.5, 2.1), 0.5)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_example_configs_load(path):
    config = load_config(path)
    assert config.name == path.stem
    assert Path(config.data_dir).is_absolute()


def test_plain_values_round_trip_and_keep_the_order_of_datasets():
    config = parse_config({**MINIMAL, "datasets": {"z": {"root": "z"}, "a": {"root": "a"}}})
    assert list(config.datasets) == ["z", "a"]
    again = parse_config(yaml.safe_load(yaml.safe_dump(to_dict(config), sort_keys=False)))
    assert again == config
    assert list(again.datasets) == ["z", "a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainin": {}}, r"unknown key trainin, did you mean 'training'\?"),
        ({"training": {"step": 5}}, r"unknown key training\.step, did you mean 'steps'\?"),
        (
            {"datasets": {"a": {"root": "a", "evalute": "val"}}},
            r"datasets\.a\.evalute, did you mean 'evaluate'",
        ),
        ({"training": {"lr": "fast"}}, r"training\.lr: .*number"),
        ({"training": {"backward": "twice"}}, r"training\.backward: .*'per_dataset'"),
        ({"datasets": {"a": {}}}, r"datasets\.a\.root: .*required"),
        ({"datasets": {}}, r"datasets: .*at least 1 item"),
        ({"name": "../elsewhere"}, "name: .*pattern"),
        ({"name": ""}, "name: .*pattern"),
        ({"data_dir": 5}, "data_dir: .*string"),
        ({"training": {"lr": -1}}, r"training\.lr: .*greater than 0"),
        ({"training": {"batch_size": 0}}, r"training\.batch_size: .*greater than or equal to 1"),
        ({"training": {"steps": 5, "warmup": 5}}, r"training: .*warmup=5 must be less than steps=5"),
        ({"images": {"scale": [2.0, 0.5]}}, r"images: .*scale must be \(low, high\)"),
        ({"images": {"std": [0, 1, 1]}}, r"images\.std\.0: .*greater than 0"),
    ],
    ids=str,
)
def test_wrong_keys_and_values_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({**MINIMAL, **change})


@pytest.mark.parametrize("text", [None, "a: [", "- just a list"], ids=["absent", "broken", "list"])
def test_unreadable_files_are_named(tmp_path, text):
    path = tmp_path / "experiment.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"experiment\.yaml"):
        load_config(path)


def test_another_number_of_steps_gets_another_folder():
    config = with_steps(parse_config(MINIMAL), 7)
    assert (config.name, config.training.steps) == ("x_7", 7)
    with pytest.raises(ConfigError, match="positive"):
        with_steps(config, 0)
