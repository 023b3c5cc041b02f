"""The losses of an experiment: the paper's, or its sum with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss
from torch import Tensor

from dabnn.batch import IGNORE_INDEX, Batch, logits_of, target_of
from dabnn.experiments.config import Config, TrainingConfig
from dabnn.experiments.distillation import distilled, load_teacher
from dabnn.training import cross_entropy
from dabnn.training.batch import LossFunction

EXTRA = {"dice": DiceLoss, "focal": FocalLoss, "lovasz": LovaszLoss}
AUXILIARY = 0.4
"""Weight of the loss of an auxiliary head (Zhao et al., 2017)."""


def build_losses(config: Config, widths: Mapping[str, int]) -> dict[str, LossFunction]:
    """Return the loss of each dataset of an experiment, with a teacher if it has one.

    Args:
        config: The experiment.
        widths: Number of classes of each dataset.
    """
    loss = build_loss(config.training)
    if config.training.teacher is None:
        return dict.fromkeys(widths, loss)
    teacher = load_teacher(config.training.teacher, widths, config.images)
    return {name: distilled(loss, teacher, name) for name in widths}


def build_loss(config: TrainingConfig) -> LossFunction:
    """Return the loss function of an experiment, for models that return logits of the size of the masks.

    The logits of an auxiliary head, under "aux" of the output, add 0.4 times their own loss.
    """
    extra = (
        None
        if config.loss == "cross_entropy"
        else EXTRA[config.loss]("multiclass", ignore_index=IGNORE_INDEX)
    )

    def one(logits: Tensor, batch: Batch) -> Tensor:
        total: Tensor = cross_entropy(logits, batch)
        if extra is not None and bool((target_of(batch) != IGNORE_INDEX).any()):  # undefined without labels
            total = total + extra(logits, target_of(batch))
        return total

    def loss(output: Any, batch: Batch) -> Tensor:
        total = one(logits_of(output), batch)
        if isinstance(output, Mapping) and "aux" in output:
            total = total + AUXILIARY * one(output["aux"], batch)
        return total

    return loss
