"""From a config to datasets, loaders, model and optimizer."""

from dabnn.experiments.build.datasets import (
    build_dataset,
    build_training_split,
    data_directory,
    relabelled,
    remapped,
    space_of,
)
from dabnn.experiments.build.loaders import build_eval_loader, build_train_loader
from dabnn.experiments.build.model import build_model, new_head, plain_model
from dabnn.experiments.build.optimizer import build_optimizer, build_scheduler

__all__ = [
    "build_dataset",
    "build_eval_loader",
    "build_model",
    "build_optimizer",
    "build_scheduler",
    "build_train_loader",
    "build_training_split",
    "data_directory",
    "new_head",
    "plain_model",
    "relabelled",
    "remapped",
    "space_of",
]
