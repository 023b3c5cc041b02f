"""One branch measured on another dataset: label maps, recalibration, images of several sizes."""

from __future__ import annotations

import pytest
import torch

from dabnn.data import LabelMap, ToyStreets
from dabnn.errors import DataError
from dabnn.experiments.config import parse_config
from dabnn.experiments.run import run_method
from dabnn.experiments.saved import evaluate_run, load_run
from dabnn.experiments.toy_folders import write_folder
from dabnn.experiments.zero_shot import evaluate_branch, same_size_batches


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("zero_shot")
    for name in ("northport", "sunvale"):
        write_folder(
            {s: ToyStreets(name, s, size=(32, 64), length=4) for s in ("train", "val")}, root / "data" / name
        )
    config = parse_config(
        {
            "name": "tiny",
            "datasets": {name: {"root": name} for name in ("northport", "sunvale")},
            "model": {"architecture": "FPN", "encoder": "tu-test_resnet"},
            "images": {"crop": [32, 32]},
            "training": {"steps": 2, "batch_size": 2},
        }
    )
    run_method(config, "cdcl", 0, root / "runs", data_dir=root / "data")
    return root / "runs" / "cdcl-seed0"


NORTHPORT = ToyStreets("northport", "val", size=(32, 64), length=4)
SUNVALE = ToyStreets("sunvale", "val", size=(32, 64), length=4)


def test_the_own_dataset_gives_the_own_result(saved):
    expected = evaluate_run(saved)["northport"]
    assert evaluate_branch(load_run(saved), "northport", NORTHPORT).miou == expected.miou


def test_other_classes_need_a_map_and_are_measured_through_it(saved):
    run = load_run(saved)
    with pytest.raises(DataError, match="a label map from one to the other is needed"):
        evaluate_branch(run, "northport", SUNVALE)
    target = SUNVALE.classes
    classes = {name: name if name in target else target[0] for name in NORTHPORT.classes}
    result = evaluate_branch(
        run, "northport", SUNVALE, label_map=LabelMap(NORTHPORT.classes, target, classes)
    )
    assert tuple(result.iou) == target
    assert result.confusion.sum() > 0


def test_recalibration_changes_the_result_and_leaves_the_run_as_it_was(saved):
    run = load_run(saved)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    plain = evaluate_branch(run, "northport", NORTHPORT)
    recalibrated = evaluate_branch(run, "northport", NORTHPORT, recalibrate=True)
    assert not torch.equal(plain.confusion, recalibrated.confusion)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_images_are_batched_by_size_and_a_single_one_is_left_out():
    sizes = [(4, 4), (4, 6), (4, 4), (4, 4), (2, 2), (4, 6)]
    images = [{"image": torch.full((1, 3, *size), float(k))} for k, size in enumerate(sizes)]
    batches = [batch["image"] for batch in same_size_batches(images, 2)]
    assert [(tuple(b.shape[-2:]), b[:, 0, 0, 0].tolist()) for b in batches] == [
        ((4, 4), [0.0, 2.0]),
        ((4, 6), [1.0, 5.0]),
    ]
