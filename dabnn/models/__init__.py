"""The zoo: models by name, and those of dabnn's own that no library has as the paper needs them."""

from __future__ import annotations

from dabnn.models.create import create_model
from dabnn.models.info import Build, DatasetInfo, ModelInfo
from dabnn.models.pspnet import PSPNet
from dabnn.models.registry import list_models, register_model

__all__ = [
    "Build",
    "DatasetInfo",
    "ModelInfo",
    "PSPNet",
    "create_model",
    "list_models",
    "register_model",
]
