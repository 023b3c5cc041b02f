"""One branch measured on another dataset: label maps, recalibration, images of several sizes."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

import dabnn
from dabnn.data import (
    FolderDataset,
    LabelMap,
    RelabelledDataset,
    Sample,
    SegmentationDataset,
    ToyStreets,
    load_map,
    load_space,
)
from dabnn.errors import DataError
from dabnn.evaluation import SegmentationMetric, predict_logits
from dabnn.evaluation.inference import pad_images
from dabnn.experiments.config import parse_config
from dabnn.experiments.demo.toy_folders import write_folder
from dabnn.experiments.run import run_method
from dabnn.experiments.saved import evaluate_run, load_model
from dabnn.experiments.whole_images import same_size_batches
from dabnn.experiments.zero_shot import evaluate_branch, evaluate_elsewhere
from dabnn.models.stored.folder import info_of


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
    assert evaluate_branch(load_model(saved), "northport", NORTHPORT).miou == expected.miou


def test_other_classes_need_a_map_and_are_measured_through_it(saved):
    model = load_model(saved)
    with pytest.raises(DataError, match="there is no label map between them"):
        evaluate_branch(model, "northport", SUNVALE)
    target = SUNVALE.classes
    classes = {name: name if name in target else target[0] for name in NORTHPORT.classes}
    result = evaluate_branch(
        model, "northport", SUNVALE, label_map=LabelMap(NORTHPORT.classes, target, classes)
    )
    assert tuple(result.iou) == target
    turned = LabelMap(NORTHPORT.classes, target[::-1], classes)
    with pytest.raises(DataError, match="is not between them"):
        evaluate_branch(model, "northport", SUNVALE, label_map=turned)
    assert result.confusion.sum() > 0


def run_in(space: str, saved: Path, folder: Path) -> Path:
    """The training, its branches trained in a label space that dabnn ships, or so its files say."""
    shutil.copytree(saved, folder)
    file = folder / "model" / "config.json"
    record = json.loads(file.read_text())
    for entry in record["datasets"].values():
        if len(entry["classes"]) == len(load_space(space).classes):
            entry["classes"] = load_space(space).classes
    file.write_text(json.dumps(record))
    return folder


def data_in(space: str, folder: Path) -> Path:
    """Images whose labels are of a label space that dabnn ships."""
    write_folder({"val": SUNVALE}, folder)
    content = {
        "classes": load_space(space).classes,
        "palette": load_space(space).palette,
        "ignore_index": 255,
    }
    (folder / "classes.json").write_text(json.dumps(content))
    return folder


def test_classes_that_no_class_is_mapped_to_are_named(saved, tmp_path):
    run, there = run_in("camvid", saved, tmp_path / "run"), data_in("cityscapes", tmp_path / "there")
    measured = evaluate_elsewhere(load_model(run), "northport", there)
    assert measured.unmatched == (
        "wall", "traffic light", "terrain", "truck", "bus", "train", "motorcycle", "bicycle"
    )  # fmt: skip
    (note,) = measured.notes
    assert "No class of branch 'northport' is mapped to: wall, traffic light, terrain" in note
    assert measured.result.iou["wall"] == 0
    through = load_map("camvid", "cityscapes")
    expected = evaluate_branch(load_model(run), "northport", FolderDataset(there, "val"), label_map=through)
    assert measured.result.miou == expected.miou


def test_without_a_map_for_predictions_the_labels_are_relabelled(saved, tmp_path):
    run, there = run_in("idd_lite", saved, tmp_path / "run"), data_in("idd", tmp_path / "there")
    measured = evaluate_elsewhere(load_model(run), "sunvale", there)
    space = load_space("idd_lite")
    dataset = RelabelledDataset(FolderDataset(there, "val"), load_map("idd", "idd_lite"), space)
    assert torch.equal(
        measured.result.confusion, evaluate_branch(load_model(run), "sunvale", dataset).confusion
    )
    assert tuple(measured.result.iou) == space.classes
    assert measured.unmatched == ()
    (note,) = measured.notes
    assert "in the classes of branch 'sunvale': the labels were relabelled" in note
    assert "do not count: none" in note


def test_relabelled_labels_that_became_void_are_named(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("dabnn.experiments.zero_shot.list_maps", lambda: [("camvid", "idd_lite")])
    lossy = load_map("camvid", "idd_lite")
    lossy = replace(lossy, classes={**lossy.classes, "sky": None, "car": None})
    for module in ("zero_shot", "build.datasets"):
        monkeypatch.setattr(f"dabnn.experiments.{module}.load_map", lambda source, target: lossy)
    run, there = run_in("idd_lite", saved, tmp_path / "run"), data_in("camvid", tmp_path / "there")
    measured = evaluate_elsewhere(load_model(run), "sunvale", there)
    assert measured.unmatched == ("vehicles", "sky")
    assert "do not count: sky, car" in measured.notes[0]
    assert "No class of the dataset is mapped to: vehicles, sky" in measured.notes[1]


def test_own_classes_need_no_notes(saved, tmp_path):
    run, there = run_in("idd_lite", saved, tmp_path / "run"), data_in("idd_lite", tmp_path / "there")
    measured = evaluate_elsewhere(load_model(run), "sunvale", there)
    assert (measured.unmatched, measured.notes) == ((), ())


def test_without_any_map_those_of_the_branch_are_listed(saved, tmp_path):
    write_folder({"val": NORTHPORT}, tmp_path / "there")
    run = run_in("idd_lite", saved, tmp_path / "run")
    with pytest.raises(DataError, match=r"cityscapes to idd_lite, idd to idd_lite; .*--map"):
        evaluate_elsewhere(load_model(run), "sunvale", tmp_path / "there")
    with pytest.raises(DataError, match=r"no label space that dabnn has maps for; .*--map"):
        evaluate_elsewhere(load_model(saved), "sunvale", tmp_path / "there")


def test_a_label_map_of_ones_own(saved, tmp_path):
    write_folder({"val": NORTHPORT}, tmp_path / "there")
    there = FolderDataset(tmp_path / "there", "val")
    classes = info_of(load_model(saved)).datasets["sunvale"].classes
    file = tmp_path / "map.json"
    content = dict.fromkeys(classes, there.classes[0])
    file.write_text(json.dumps({"classes": content}))
    measured = evaluate_elsewhere(load_model(saved), "sunvale", tmp_path / "there", label_map=file)
    assert measured.unmatched == there.classes[1:]
    expected = evaluate_branch(
        load_model(saved), "sunvale", there, label_map=LabelMap(classes, there.classes, content)
    )
    assert measured.result.miou == expected.miou
    for text, message in (
        ("{}", "is no label map"),
        ('{"classes": 3}', "is no label map"),
        ('{"classes": {}}', f"{file}: a label map must map every class"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=re.escape(message)):
            evaluate_elsewhere(load_model(saved), "sunvale", tmp_path / "there", label_map=file)


def test_recalibration_changes_the_result_and_leaves_the_run_as_it_was(saved):
    model = load_model(saved)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = evaluate_branch(model, "northport", NORTHPORT)
    recalibrated = evaluate_branch(model, "northport", NORTHPORT, recalibrate=True)
    assert not torch.equal(plain.confusion, recalibrated.confusion)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_recalibration_sees_the_images_as_evaluation_does_at_any_size(saved):
    odd = ToyStreets("northport", "val", size=(40, 72), length=4)
    converted = load_model(saved)
    recalibrated = evaluate_branch(converted, "northport", odd, recalibrate=True, batch_size=4)
    # By hand: all images in one batch, padded as predict_logits pads them.
    model = dabnn.extract_dataset(converted, "northport")
    images = torch.cat(
        [dabnn.preprocess(converted, odd[k]["image"].as_subclass(torch.Tensor)) for k in range(4)]
    )
    dabnn.recalibrate_batch_norm(model, [{"image": pad_images(images)}])
    metric = SegmentationMetric(odd.classes, odd.ignore_index)
    with torch.no_grad():
        for k, image in enumerate(images):
            metric.update(predict_logits(model.eval(), image[None]), odd[k]["mask"].long()[None])
    assert metric.compute().miou == pytest.approx(recalibrated.miou, abs=0.01)


class Video(SegmentationDataset):
    """Some images of a dataset, repeated."""

    def __init__(self, dataset: SegmentationDataset, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices
        self.name, self.classes, self.palette = dataset.name, dataset.classes, dataset.palette
        self.ignore_index = dataset.ignore_index

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


def test_recalibration_does_not_make_batches_of_neighbours(saved):
    """Those of a video, alike, would each be normalised on their own."""
    batches: list[torch.Tensor] = []
    model = load_model(saved)
    with torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: batches.append(args[0]) if isinstance(module, smp.FPN) else None
    ):
        evaluate_branch(
            model, "northport", Video(NORTHPORT, [0] * 8 + [1] * 8), recalibrate=True, batch_size=8
        )
    mixed = [batch for batch in batches if len(batch) == 8]
    assert len(mixed) == 2
    assert all((batch[0] != batch).any() for batch in mixed)


def test_images_are_batched_by_size_and_a_single_one_is_left_out():
    sizes = [(32, 32), (32, 64), (32, 32), (32, 32), (64, 64), (32, 64)]
    images = [{"image": torch.full((1, 3, *size), float(k))} for k, size in enumerate(sizes)]
    batches = [batch["image"] for batch in same_size_batches(images, 2)]
    assert [(tuple(b.shape[-2:]), b[:, 0, 0, 0].tolist()) for b in batches] == [
        ((32, 32), [0.0, 2.0]),
        ((32, 64), [1.0, 5.0]),
    ]


def test_images_of_which_no_two_have_one_size_are_refused_for_recalibration():
    loader = [{"image": torch.zeros(1, 3, 32, 32 * count)} for count in (1, 2, 3)]
    with pytest.raises(DataError, match="of 3 images no two have one size"):
        list(same_size_batches(loader, 2))
