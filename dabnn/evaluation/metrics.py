"""Mean intersection over union, the measure of the paper (section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from dabnn.batch import IGNORE_INDEX
from dabnn.errors import DataError


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """How well predictions agree with the truth, over all pixels that are not ignored.

    Attributes:
        miou: Mean of ``iou`` over the classes that occur, in percent [0, 100]; nan if no pixel was labelled.
        iou: Intersection over union of each class, in percent; nan for a class that occurs neither in the
            prediction nor in the truth.
        pixel_accuracy: Share of pixels predicted right, in percent.
        confusion: int64 (C, C) on the CPU, pixel counts by true class (rows) and predicted class (columns).
    """

    miou: float
    iou: dict[str, float]
    pixel_accuracy: float
    confusion: Tensor


class SegmentationMetric:
    """Collects a confusion matrix batch by batch and computes IoU as the Cityscapes benchmark does.

    IoU of a class is TP / (TP + FP + FN) over the pixels of the whole set, not a mean over images. Under
    torch.distributed `compute` sums the counts of all processes, and every process has to call it.

    Args:
        classes: Class names; the label ids are ``0`` to ``len(classes) - 1``.
        ignore_index: Target value of pixels that do not count.

    Raises:
        ValueError: There are fewer than two classes, or a name occurs twice.
    """

    def __init__(self, classes: Sequence[str], ignore_index: int = IGNORE_INDEX) -> None:
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise ValueError(f"classes must be at least two different names, not {list(classes)}")
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        # `update` leaves out ignored pixels and checks the ids itself: faster, and with a message that helps.
        self._confusion = MulticlassConfusionMatrix(len(self.classes), validate_args=False)
        self._images = SumMetric()
        self.reset()

    def to(self, device: torch.device | str) -> SegmentationMetric:
        """Move the counts to ``device`` and return self; `update` needs tensors of that device."""
        self._confusion.to(device)
        self._images.to(device)
        return self

    def reset(self) -> None:
        """Forget everything collected."""
        for metric in (self._confusion, self._images):
            metric.reset()
        # Of several processes one may have nothing to count, which torchmetrics would warn of.
        self._images.update(0)
        nothing = torch.empty(0, dtype=torch.long, device=self._confusion.device)
        self._confusion.update(nothing, nothing)

    def update(self, logits_or_ids: Tensor, target: Tensor) -> None:
        """Count one batch.

        Args:
            logits_or_ids: Scores (B, C, H, W), any float dtype, or predicted class ids (B, H, W), integer.
            target: True class ids or the ignore index (B, H, W), integer.

        Raises:
            DataError: Shapes do not fit or an id is outside the class range; nothing is counted then.
        """
        ids = self._predicted_ids(logits_or_ids, target)
        labelled = target != self.ignore_index
        ids, target = ids[labelled], target[labelled]
        self._check_range(target, "target", f" and not the ignore index {self.ignore_index}")
        self._check_range(ids, "prediction", "")
        self._confusion.update(ids, target)
        self._images.update(len(logits_or_ids))

    def compute(self) -> SegmentationResult:
        """Return the result over everything collected; can be called again after more updates.

        Raises:
            DataError: Nothing was collected.
        """
        if not self._images.compute():
            raise DataError("there is nothing to evaluate: the metric got no batch; is the loader empty?")
        confusion = self._confusion.compute().cpu()
        counts = confusion.double()
        right = counts.diagonal()
        iou = 100 * right / (counts.sum(0) + counts.sum(1) - right)
        return SegmentationResult(
            miou=iou.nanmean().item(),
            iou=dict(zip(self.classes, iou.tolist(), strict=True)),
            pixel_accuracy=(100 * right.sum() / counts.sum()).item(),
            confusion=confusion,
        )

    def _predicted_ids(self, logits_or_ids: Tensor, target: Tensor) -> Tensor:
        shape = target.shape
        expected = (shape[0], len(self.classes), *shape[1:]) if logits_or_ids.is_floating_point() else shape
        if logits_or_ids.shape != expected:
            raise DataError(
                f"predictions of shape {tuple(logits_or_ids.shape)} do not fit a target of shape "
                f"{tuple(shape)} and {len(self.classes)} classes: expected {tuple(expected)}."
            )
        # max() is twice as fast as argmax() over the channels on a CPU.
        return logits_or_ids.max(1).indices if logits_or_ids.is_floating_point() else logits_or_ids

    def _check_range(self, ids: Tensor, what: str, more: str) -> None:
        outside = (ids < 0) | (ids >= len(self.classes))
        if outside.any():
            raise DataError(
                f"the {what} has ids {ids[outside].unique().tolist()}, outside the {len(self.classes)} "
                f"classes (0 to {len(self.classes) - 1}){more}: map them, or give the metric all classes."
            )
