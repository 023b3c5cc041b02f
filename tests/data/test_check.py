"""`dabnn data check`, on the folders that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from typer.testing import CliRunner

from dabnn.cli import app


def check(*arguments: object) -> tuple[int, str]:
    """Return exit code and output, on one line."""
    result = CliRunner().invoke(app, ["data", "check", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    """A part of KITTI: two images."""
    for frame in ("000000_10", "000001_10"):
        for folder, shape in (("image_2", (4, 6, 3)), ("semantic", (4, 6))):
            path = tmp_path / "training" / folder / f"{frame}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PILImage.fromarray(np.full(shape, 7, np.uint8)).save(path)
    return tmp_path


def test_the_official_number_of_images_is_beside_the_one_that_was_found(kitti: Path) -> None:
    code, output = check("kitti", kitti)
    assert code == 0, output
    assert "split ┃ images ┃ official ┃ problems" in output
    assert "train │ 2 │ 200 │ 0" in output
    part = check("kitti", kitti, "--split", "train[:50%]")
    assert "train[:50%] │ 1 │ │ 0" in part[1]


def test_images_and_labels_that_are_alone_are_all_in_the_table(kitti: Path) -> None:
    (kitti / "training/image_2/000000_10.png").rename(kitti / "training/image_2/000005_10.png")
    code, output = check("kitti", kitti)
    assert code == 1
    assert "train │ 1 │ 200 │ 2" in output
    assert "image_2/000005_10.png has no label in " in output
    assert "semantic/000000_10.png has no image in " in output
    assert output.endswith("2 problems")


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_folder_that_holds_no_dataset_fails_and_says_the_layout(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    code, output = check("folder", tmp_path / folder)
    assert code == 1
    assert "has no folder images/<split>/: a dataset folder has" in output
    assert "classes.json" in output


def test_a_split_without_public_labels_fails_and_says_so(kitti: Path) -> None:
    code, output = check("kitti", kitti, "--split", "test")
    assert code == 1
    assert "the labels of the split 'test' of KITTI are not public" in output
