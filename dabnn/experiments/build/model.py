"""Build the model of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segmentation_models_pytorch.base.initialization import initialize_head
from torch import nn

from dabnn import convert_to_dataset_aware
from dabnn.conversion.classifiers import resize_classifier
from dabnn.experiments.build.weights import load_imagenet_encoder
from dabnn.experiments.config import Config, ModelConfig
from dabnn.layers.surgery import set_momentum
from dabnn.models.stored.source import BACKBONES, Library, Source

LIBRARIES: dict[str, Library] = {"smp": "segmentation_models_pytorch", "dabnn": "dabnn"}
"""What configs call a library, and what it is called."""


def build_model(
    config: Config, num_classes: Mapping[str, int], *, convert: Mapping[str, Any] | None = None
) -> nn.Module:
    """Return a dataset-aware model for the given datasets, initialised from torch's random state.

    Args:
        config: The experiment.
        num_classes: Number of classes by dataset name, in branch order.
        convert: Further options of `dabnn.convert_to_dataset_aware`.
    """
    entry = config.model
    model = plain_model(entry, max(num_classes.values()))
    if entry.weights == "imagenet":
        load_imagenet_encoder(model, entry.encoder)
    if entry.bn_momentum is not None:
        set_momentum(model, entry.bn_momentum)
    return convert_to_dataset_aware(
        model,
        dataset_names=list(num_classes),
        num_classes=list(num_classes.values()),
        head_factory=new_head,
        **(convert or {}),
    )


def plain_model(entry: ModelConfig, num_classes: int) -> nn.Module:
    """Return the model of an experiment before its conversion, without pretrained weights.

    A config may come from a stranger, so it passes the checks that the config of a saved model passes: no
    argument names a file or an address.

    Raises:
        ConfigError: If its library has no such model, or refuses its arguments.
    """
    library = LIBRARIES[entry.library]
    architecture = entry.encoder.partition(".")[0]  # what follows a dot names weights
    arguments = {BACKBONES[library]: architecture, **entry.arguments}
    return Source(library, entry.architecture, arguments).build(num_classes)


def new_head(old: nn.Module, num_classes: int) -> nn.Module:
    """Return a classifier initialised as SMP does, so that it starts alike with one dataset and with many."""
    head = nn.Sequential(resize_classifier(old, num_classes))
    initialize_head(head)
    return head[0]
