"""The zoo: models by name, and those of dabnn's own that no library has as the paper needs them."""

from __future__ import annotations

from dabnn.models.create import create_model
from dabnn.models.pspnet import PSPNet
from dabnn.models.registry import list_models, register_model
from dabnn.models.stored.info import Build, DatasetInfo, ModelInfo

__all__ = [
    "Build",
    "DatasetInfo",
    "ModelInfo",
    "PSPNet",
    "create_model",
    "list_models",
    "register_model",
]
