"""The zoo: models by name, and those of dabnn's own that no library has as the paper needs them."""

from __future__ import annotations

from dabnn.models._builder import create_model
from dabnn.models._registry import list_models, register_model
from dabnn.models.info import DatasetInfo, ModelInfo
from dabnn.models.pspnet import PSPNet
from dabnn.models.source import Source

__all__ = [
    "DatasetInfo",
    "ModelInfo",
    "PSPNet",
    "Source",
    "create_model",
    "list_models",
    "register_model",
]
