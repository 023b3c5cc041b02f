from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dabnn.data import TOY_DATASETS, FolderDataset, ToyStreets
from dabnn.experiments.demo.run import COMPARED, DemoResult, demo_config, run_demo
from dabnn.experiments.demo.toy_folders import write_folder


def test_the_demo_gives_every_method_the_same_steps_on_every_toy_dataset(tiny_demo: DemoResult) -> None:
    assert {(row.method, row.dataset) for row in tiny_demo.rows} == {
        (m, d) for m in COMPARED for d in TOY_DATASETS
    }
    assert {row.steps for row in tiny_demo.rows} == {10}


def test_the_demo_leaves_a_table_with_versions_and_settings(tiny_demo: DemoResult, demo_folder: Path) -> None:
    with (demo_folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    record = json.loads((demo_folder / "results.json").read_text())

    assert [row["miou"] for row in rows if row["method"] == "cdcl"] == [
        f"{row.miou:.2f}" for row in tiny_demo.rows if row.method == "cdcl"
    ]
    assert record["environments"][0]["torch"] == torch.__version__.partition("+")[0]
    assert record["config"]["training"]["steps"] == 10
    assert str(demo_folder) not in json.dumps(record)


def test_a_finished_demo_is_read_back_not_trained_again(
    tiny_demo: DemoResult, demo_folder: Path, cdcl_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (cdcl_run / "model" / "model.safetensors").stat().st_mtime_ns

    again = run_demo(demo_folder, steps=10)

    assert again == tiny_demo
    assert (cdcl_run / "model" / "model.safetensors").stat().st_mtime_ns == weights
    assert "CDCL against Single-dataset" in " ".join(capsys.readouterr().out.split())


def test_the_picture_has_three_columns_for_each_dataset(tiny_demo: DemoResult, demo_folder: Path) -> None:
    with Image.open(demo_folder / "scenes.png") as picture:
        width, height = picture.size

    assert (width, height) == (3 * 3 * 128 + 2 * 6, 3 * 3 * 64 + 2 * 6)


def test_the_demo_can_be_shortened() -> None:
    assert demo_config(7).training.steps == 7 < demo_config().training.steps
    assert replace(demo_config(7).training, steps=1) == replace(demo_config().training, steps=1)


def test_all_scenes_are_written_without_loss(tmp_path: Path) -> None:
    scenes = ToyStreets("northport", "train", length=3)
    write_folder({"train": scenes}, tmp_path / "northport")

    folder = FolderDataset(tmp_path / "northport", "train")

    assert (folder.classes, folder.palette, len(folder)) == (scenes.classes, scenes.palette, 3)
    for index in range(3):
        assert torch.equal(folder[index]["image"], scenes[index]["image"])
        assert torch.equal(folder[index]["mask"], scenes[index]["mask"])
    assert 255 in np.asarray(folder[0]["mask"])  # the hood of the car


def test_an_interrupted_drawing_starts_over(tmp_path: Path) -> None:
    scenes = ToyStreets("oldtown", "train", length=2)
    (tmp_path / ".oldtown.tmp" / "images").mkdir(parents=True)

    write_folder({"train": scenes}, tmp_path / "oldtown")

    assert [path.name for path in tmp_path.iterdir()] == ["oldtown"]
    assert len(FolderDataset(tmp_path / "oldtown", "train")) == 2
