from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dabnn.data import Cityscapes, load_space
from dabnn.errors import DataError
from dabnn.evaluation import SegmentationMetric

CITYSCAPES_LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def names(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def brute_force(
    prediction: np.ndarray, target: np.ndarray, n_classes: int
) -> tuple[list[float], float, float]:
    """Return IoU of each class, their mean, and pixel accuracy, all in percent, from sets of pixels."""
    labelled = target != 255
    iou = []
    for number in range(n_classes):
        said, true = (prediction == number) & labelled, (target == number) & labelled
        union = (said | true).sum()
        iou.append(100 * (said & true).sum() / union if union else math.nan)
    present = [value for value in iou if not math.isnan(value)]
    mean = sum(present) / len(present) if present else math.nan
    accuracy = 100 * (prediction == target)[labelled].mean() if labelled.any() else math.nan
    return iou, mean, accuracy


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, Tensor, Tensor]:
    """Draw a number of classes, and label maps that use only some of them; parts are ignored."""
    n_classes = draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    used = draw(st.integers(1, n_classes))
    prediction = torch.randint(0, used, shape, generator=generator)
    target = torch.randint(n_classes - used, n_classes, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 255
    return n_classes, prediction, target


@given(maps(), st.booleans())
def test_equals_brute_force(drawn: tuple[int, Tensor, Tensor], as_logits: bool) -> None:
    n_classes, prediction, target = drawn
    metric = SegmentationMetric(names(n_classes))
    logits = torch.nn.functional.one_hot(prediction, n_classes).movedim(-1, 1).float()
    for one in range(len(target)):
        part = slice(one, one + 1)
        metric.update(logits[part] if as_logits else prediction[part], target[part])
    result = metric.compute()

    iou, mean, accuracy = brute_force(prediction.numpy(), target.numpy(), n_classes)
    assert list(result.iou.values()) == pytest.approx(iou, nan_ok=True)
    assert result.miou == pytest.approx(mean, nan_ok=True)
    assert result.pixel_accuracy == pytest.approx(accuracy, nan_ok=True)
    assert result.confusion.sum() == (target != 255).sum()


def cityscapes_scripts() -> Any:
    return pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="cityscapesScripts is not installed",
        exc_type=ImportError,
    )


@pytest.mark.data
def test_equals_cityscapes_scripts_on_the_raw_sample(data_root: Path, tmp_path: Path) -> None:
    """From the label ids of the official files to IoU, and predictions back to label ids."""
    official = cityscapes_scripts()
    dataset = Cityscapes(data_root / "cityscapes-raw-sample", "val")
    (_, truth), mask = dataset.pairs[0], dataset[0]["mask"]
    prediction = mask.roll((3, 5), (0, 1)).long()
    prediction[prediction == 255] = 0
    values = load_space("cityscapes_label_ids").values()
    Image.fromarray(values[prediction.numpy()]).save(tmp_path / "prediction.png")

    args = copy.copy(official.args)
    args.evalInstLevelScore = args.evalPixelAccuracy = False
    matrix = official.generateMatrix(args)
    official.evaluatePair(str(tmp_path / "prediction.png"), str(truth), matrix, {}, {}, args)
    scores = [official.getIouScoreForLabel(label, matrix, args) for label in CITYSCAPES_LABEL_IDS]

    metric = SegmentationMetric(dataset.classes)
    metric.update(prediction[None], mask[None])
    iou = [value / 100 for value in metric.compute().iou.values()]
    assert iou == pytest.approx(scores, nan_ok=True)
    assert sum(0 < value < 1 for value in iou) >= 5  # a picture with something to tell apart


def test_equals_cityscapes_scripts() -> None:
    official = cityscapes_scripts()
    prediction = torch.randint(0, 18, (2, 64, 64))
    target = torch.where(torch.rand(2, 64, 64) < 0.4, prediction, torch.randint(0, 18, (2, 64, 64)))
    target[torch.rand(target.shape) < 0.1] = 255

    official_ids = np.array([*CITYSCAPES_LABEL_IDS, *[0] * 237])
    matrix = official.generateMatrix(official.args)
    np.add.at(matrix, (official_ids[target.numpy()], official_ids[prediction.numpy()]), 1)
    scores = {
        label: official.getIouScoreForLabel(label, matrix, official.args) for label in CITYSCAPES_LABEL_IDS
    }

    metric = SegmentationMetric(names(19))
    metric.update(prediction, target)
    result = metric.compute()
    assert [value / 100 for value in result.iou.values()] == pytest.approx(list(scores.values()), nan_ok=True)
    assert result.miou / 100 == pytest.approx(official.getScoreAverage(scores, official.args))


def test_figures_of_a_small_example() -> None:
    metric = SegmentationMetric(["road", "car", "train"])
    metric.update(torch.tensor([[[0, 0, 1, 1, 0]]]), torch.tensor([[[0, 1, 1, 1, 255]]]))
    result = metric.compute()

    assert result.iou["road"] == pytest.approx(50)
    assert result.iou["car"] == pytest.approx(200 / 3)
    assert math.isnan(result.iou["train"])
    assert result.miou == pytest.approx(175 / 3)
    assert result.pixel_accuracy == pytest.approx(75)
    assert result.confusion.tolist() == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]


def test_class_only_in_the_prediction_counts_as_zero() -> None:
    metric = SegmentationMetric(["road", "car"])
    metric.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    assert metric.compute().iou == {"road": 50, "car": 0}


def test_set_without_labelled_pixels_has_no_miou() -> None:
    metric = SegmentationMetric(["road", "car"])
    metric.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), 255))
    assert math.isnan(metric.compute().miou)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integer_types_of_ids(dtype: torch.dtype) -> None:
    ids = torch.tensor([[[0, 17, 18]]], dtype=dtype)
    metric = SegmentationMetric(names(19))
    metric.update(ids, ids)
    assert metric.compute().miou == 100


def test_results_continue_and_reset() -> None:
    metric = SegmentationMetric(["road", "car"])
    right, wrong = torch.tensor([[[0, 1]]]), torch.tensor([[[1, 0]]])
    metric.update(right, right)
    assert metric.compute().pixel_accuracy == 100
    metric.update(wrong, right)
    assert metric.compute().pixel_accuracy == 50
    metric.reset()
    metric.update(wrong, right)
    assert metric.compute().pixel_accuracy == 0


@pytest.mark.parametrize(("bad", "shown"), [(2, r"\[2\]"), (-1, r"\[-1\]")])
def test_target_id_outside_the_classes_is_not_counted(bad: int, shown: str) -> None:
    metric = SegmentationMetric(["road", "car"])
    ids = torch.tensor([[[0, 1, 1]]])
    metric.update(ids, ids)
    with pytest.raises(DataError, match=rf"the target has ids {shown}, outside the 2 classes \(0 to 1\)"):
        metric.update(ids, torch.tensor([[[0, bad, 255]]]))
    assert metric.compute().confusion.sum() == 3


def test_predicted_id_outside_the_classes() -> None:
    ids = torch.tensor([[[0, 5]]])
    with pytest.raises(DataError, match=r"the prediction has ids \[5\], outside the 2 classes"):
        SegmentationMetric(["road", "car"]).update(ids, torch.zeros_like(ids))


@pytest.mark.parametrize(
    "prediction", [torch.rand(1, 3, 4, 4), torch.rand(1, 2, 2, 2), torch.zeros(1, 4, 2).long()]
)
def test_shapes_that_do_not_fit(prediction: Tensor) -> None:
    metric = SegmentationMetric(["road", "car"])
    with pytest.raises(DataError, match=r"do not fit a target of shape \(1, 4, 4\) and 2 classes"):
        metric.update(prediction, torch.zeros(1, 4, 4).long())


def test_nothing_collected() -> None:
    with pytest.raises(DataError, match="the metric got no batch"):
        SegmentationMetric(["road", "car"]).compute()


@pytest.mark.parametrize("classes", [[], ["road"], ["road", "road"]])
def test_class_names_must_be_two_and_differ(classes: list[str]) -> None:
    with pytest.raises(ValueError, match="at least two different names"):
        SegmentationMetric(classes)
