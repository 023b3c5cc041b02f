"""The loss of an experiment: the paper's, or its sum with another one."""

from __future__ import annotations

from typing import Any

from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss
from torch import Tensor

from dabnn.data.batch import Batch, target_of
from dabnn.experiments.config import TrainingConfig
from dabnn.training import cross_entropy
from dabnn.training.batch import IGNORE_INDEX, LossFunction

EXTRA = {"dice": DiceLoss, "focal": FocalLoss, "lovasz": LovaszLoss}


def build_loss(config: TrainingConfig) -> LossFunction:
    """Return the loss function of an experiment, for models that return logits of the size of the masks."""
    if config.loss == "cross_entropy":
        return cross_entropy
    extra = EXTRA[config.loss]("multiclass", ignore_index=IGNORE_INDEX)

    def loss(output: Any, batch: Batch) -> Tensor:
        total: Tensor = cross_entropy(output, batch) + extra(output, target_of(batch))
        return total

    return loss
