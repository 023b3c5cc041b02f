"""Knowledge distillation (Hinton et al., 2015): learn what another model says of an image, besides labels.

For a network without pretrained weights, from one that has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dabnn import use_dataset
from dabnn.batch import Batch, inputs_of, logits_of
from dabnn.errors import ConfigError
from dabnn.experiments.config import ImageConfig
from dabnn.experiments.saved import load_model
from dabnn.models.stored.folder import info_of
from dabnn.training.batch import LossFunction


def distilled(loss: LossFunction, teacher: nn.Module, name: str) -> LossFunction:
    """Return the sum of a loss and of the divergence from a teacher's predictions.

    The divergence is the mean over all pixels, also those without a label, of KL(teacher || student).

    Args:
        loss: Loss on the labels.
        teacher: A dataset-aware model in eval mode; its weights do not change, its device may.
        name: The dataset, a branch of the teacher with the same classes.
    """

    def total(output: Any, batch: Batch) -> Tensor:
        logits = logits_of(output)
        with torch.no_grad(), use_dataset(teacher.to(logits.device), name):
            aim = teacher(inputs_of(batch)).float().log_softmax(1)
        divergence = F.kl_div(logits.float().log_softmax(1), aim, reduction="none", log_target=True)
        return loss(output, batch) + divergence.sum(1).mean()

    return total


def load_teacher(source: str, widths: Mapping[str, int], images: ImageConfig) -> nn.Module:
    """Return the model to learn from.

    Args:
        source: Folder of a finished training, or what `dabnn.from_pretrained` takes.
        widths: Number of classes of each dataset that is trained on.
        images: How images are prepared for the student, and so for the teacher.

    Raises:
        ConfigError: If it lacks a dataset, has another number of classes, or needs images prepared otherwise.
        UnknownModelError, CheckpointError or HubError: If there is no such model.
    """
    teacher = load_model(source)
    info = info_of(teacher)
    known = {name: len(info.datasets[name].classes) if name in info.datasets else None for name in widths}
    if known != dict(widths):
        raise ConfigError(f"teacher {source} has {known} classes, the datasets of the config {dict(widths)}")
    if (info.mean, info.std) != (images.mean, images.std):
        raise ConfigError(
            f"teacher {source} needs images of mean {info.mean} and std {info.std}; give images.mean and "
            "images.std of the config these values"
        )
    return teacher.eval().requires_grad_(False)
