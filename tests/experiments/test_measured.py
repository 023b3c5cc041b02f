"""What a network reaches, as files."""

from __future__ import annotations

import json

import pytest
import torch

from dabnn.errors import CheckpointError
from dabnn.evaluation import SegmentationMetric
from dabnn.experiments import measured
from dabnn.experiments.measured import Measured, write_measured


@pytest.fixture
def entry() -> Measured:
    metric = SegmentationMetric(["road", "sky, blue", "train"])
    metric.update(torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([[[0, 0, 1, 1]]]))
    return Measured(metric.compute(), ("train",), ("No class is mapped to: train.",))


def test_every_class_and_both_means_are_written(tmp_path, entry):
    table, text, made = write_measured(
        tmp_path / "new", {"a": entry, "b": Measured(entry.result)}, {"run": "r"}
    )
    assert table.read_text().splitlines()[:6] == [
        "dataset,measure,class,percent,note",
        "a,iou,road,66.67,",
        'a,iou,"sky, blue",50.00,',
        "a,iou,train,nan,no class is mapped to it",
        "a,miou,,58.33,",
        "a,pixel_accuracy,,75.00,",
    ]
    assert "b,iou,train,nan,\n" in table.read_text()
    sections = text.read_text().split("# b\n")
    assert (
        "| mean IoU | 58.33 |\n| pixel accuracy | 75.00 |\n\nNo class is mapped to: train.\n" in sections[0]
    )
    assert "No class" not in sections[1]
    record = json.loads(made.read_text())
    assert record["run"] == "r"
    assert "dabnn" in record["environment"]
    assert record["notes"] == {"a": ["No class is mapped to: train."], "b": []}


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path, entry, monkeypatch):
    files = write_measured(tmp_path, {"a": entry}, {})
    before = [file.read_text() for file in files]

    def full(self: Measured, *rest: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(measured, "_lines", full)
    with pytest.raises(CheckpointError, match=r"evaluation\.csv.*older file of that name is untouched"):
        write_measured(tmp_path, {"b": entry}, {})
    assert [file.read_text() for file in files] == before
    assert len(list(tmp_path.iterdir())) == 3
