"""The config of a model: what it may say, and errors that name what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dabnn.errors import CheckpointError
from dabnn.models import DatasetInfo, ModelInfo
from dabnn.models.stored.info import from_json, to_json

SHA = "0" * 64
INFO = ModelInfo(
    {"a": DatasetInfo(("x", "y"), ((1, 2, 3), (4, 5, 6)), {"miou": 5.5}, "val", (128, 256), "research")},
    notes="More.",
    sha256=SHA,
)


def read(**values):
    content = json.loads(to_json(INFO)) | values
    return from_json(json.dumps(content), "config.json")


def dataset(**values):
    return {"datasets": {"a": {"classes": ["x", "y"], **values}}}


def build(**values):
    return {"build": {"source": {"library": "timm", "name": "test_resnet"}, **values}}


def test_a_config_says_again_what_it_was_written_from_and_which_weights_it_is_of():
    assert read() == INFO
    assert read().sha256 == SHA
    assert read() == replace(INFO, sha256="1" * 64)  # the same is said of other weights


def test_configs_of_before_sizes_and_terms_are_read():
    info = read(**dataset())
    assert (info.datasets["a"].size, info.datasets["a"].licence) == (None, "")


@pytest.mark.parametrize(
    ("values", "place"),
    [
        (dataset(palette=[[300, 0, 0], [0, 0, 0]]), "datasets.a.palette.0.0"),
        (dataset(palette=[[0, 0, 0], [0, -5, 0]]), "datasets.a.palette.1.1"),
        (dataset(metrics={"miou": float("nan")}), "datasets.a.metrics.miou"),
        (dataset(metrics={"miou": float("inf")}), "datasets.a.metrics.miou"),
        (dataset(size=[0, 256]), "datasets.a.size.0"),
        (dataset(size=[128]), "datasets.a.size.1"),
        ({"std": [0.2, 0, 0.2]}, "std.1"),
        ({"std": [0.2, float("inf"), 0.2]}, "std.1"),
        ({"mean": [float("nan"), 0, 0]}, "mean.0"),
        (build(momentum=5), "build.momentum"),
        (build(momentum=float("nan")), "build.momentum"),
        ({"sha256": "abc"}, "sha256"),
        ({"schema": True}, "schema"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_with_their_place(values, place):
    with pytest.raises(CheckpointError, match=rf"config\.json is damaged: {place}: "):
        read(**values)


@pytest.mark.parametrize("depth", [20, 900, 100_000])
def test_configs_that_are_nested_too_deeply_are_refused(depth):
    nested = "[" * depth + "]" * depth
    source = f'{{"library": "timm", "name": "test_resnet", "arguments": {{"a": {nested}}}}}'
    text = f'{{"library": "dabnn", "schema": 1, "build": {{"source": {source}}}}}'
    with pytest.raises(CheckpointError, match=r"config\.json is (no JSON|damaged)"):
        from_json(text, "config.json")
