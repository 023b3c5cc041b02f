"""Trainings from before they held a model folder: built from their config, of weights without a checksum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from dabnn import load_state_dict
from dabnn.conversion.attached import attach_info
from dabnn.errors import CheckpointError
from dabnn.experiments.build import build_model
from dabnn.experiments.config import Config
from dabnn.experiments.describe import dataset_info, describe_run
from dabnn.experiments.methods import get_method
from dabnn.storage.tensors import read_safetensors

WEIGHTS = "model.safetensors"


def load_old_model(folder: Path, config: Config, record: Mapping[str, Any]) -> nn.Module:
    """Return the model of a training that holds no model folder.

    Args:
        folder: The folder of the training.
        config: The experiment.
        record: Content of its ``result.json``.

    Raises:
        CheckpointError: If the weights are missing, damaged or do not fit.
        KeyError, IndexError, TypeError or ValueError: If the record is no result of dabnn.
    """
    first = record["rows"][0]
    method = get_method(first["method"])
    measured = {row["dataset"]: row["miou"] for row in record["rows"]}
    datasets = {
        name: dataset_info(
            config, name, entry["classes"], entry["palette"], measured[name], entry.get("size")
        )
        for name, entry in record["datasets"].items()
    }
    info = describe_run(config, method, first["steps"], datasets)
    widths = {name: len(known.classes) for name, known in datasets.items()}
    # The encoder's pretrained weights would only be overwritten, and need not be installed here.
    plain = replace(config, model=replace(config.model, weights="none"))
    with torch.random.fork_rng():
        model = build_model(plain, widths, convert=method.conversion(config.model))
    try:
        load_state_dict(model, read_safetensors(folder / WEIGHTS))
    except (OSError, SafetensorError, CheckpointError) as error:
        raise CheckpointError(
            f"cannot load {folder / WEIGHTS}: {error}; copy it again or train again"
        ) from error
    attach_info(model, info)
    return model.eval()
