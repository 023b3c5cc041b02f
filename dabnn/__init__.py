"""One network, many datasets: dataset-aware batch norm and Dataset Alternation Training.

An implementation of Cross-Dataset Collaborative Learning (Wang et al., AAAI 2022, arXiv:2103.11351).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dabnn._version import __version__
from dabnn.branches.add_remove import add_dataset, remove_dataset
from dabnn.branches.mixed import forward_mixed
from dabnn.branches.parameters import branch_parameters, shared_parameters
from dabnn.branches.save_load import load_dataset, save_dataset
from dabnn.conversion.convert import convert_to_dataset_aware
from dabnn.conversion.extract import extract_dataset
from dabnn.conversion.plan import plan_conversion
from dabnn.conversion.report import ConversionReport, Site
from dabnn.conversion.state_dict import load_state_dict
from dabnn.deploy.fold import fold_batch_norm
from dabnn.layers import DatasetAwareBatchNorm, DatasetAwareBlock, DatasetAwareHead, DatasetSwitch
from dabnn.selection import (
    DatasetSelection,
    active_dataset,
    dataset_names,
    set_dataset,
    use_dataset,
)

if TYPE_CHECKING:
    from dabnn.branches.calibrate import recalibrate_batch_norm, sync_batch_norm_buffers
    from dabnn.branches.guess import DatasetGuess, guess_dataset, guess_thresholds
    from dabnn.deploy.export import export_model
    from dabnn.deploy.preprocessing import preprocess
    from dabnn.models import create_model, list_models, register_model
    from dabnn.models.hub.load import from_pretrained, get_pretrained_cfg
    from dabnn.models.hub.push import push_to_hub
    from dabnn.models.stored.folder import save_pretrained
    from dabnn.training import AlternationTrainer

__all__ = [
    "AlternationTrainer",
    "ConversionReport",
    "DatasetAwareBatchNorm",
    "DatasetAwareBlock",
    "DatasetAwareHead",
    "DatasetGuess",
    "DatasetSelection",
    "DatasetSwitch",
    "Site",
    "__version__",
    "active_dataset",
    "add_dataset",
    "branch_parameters",
    "convert_to_dataset_aware",
    "create_model",
    "dataset_names",
    "export_model",
    "extract_dataset",
    "fold_batch_norm",
    "forward_mixed",
    "from_pretrained",
    "get_pretrained_cfg",
    "guess_dataset",
    "guess_thresholds",
    "list_models",
    "load_dataset",
    "load_state_dict",
    "plan_conversion",
    "preprocess",
    "push_to_hub",
    "recalibrate_batch_norm",
    "register_model",
    "remove_dataset",
    "save_dataset",
    "save_pretrained",
    "set_dataset",
    "shared_parameters",
    "sync_batch_norm_buffers",
    "use_dataset",
]

# Loaded on first use: importing dabnn imports torch and safetensors only.
_LAZY = {
    "AlternationTrainer": "dabnn.training",
    "DatasetGuess": "dabnn.branches.guess",
    "guess_dataset": "dabnn.branches.guess",
    "guess_thresholds": "dabnn.branches.guess",
    "create_model": "dabnn.models",
    "export_model": "dabnn.deploy.export",
    "from_pretrained": "dabnn.models.hub.load",
    "get_pretrained_cfg": "dabnn.models.hub.load",
    "list_models": "dabnn.models",
    "preprocess": "dabnn.deploy.preprocessing",
    "push_to_hub": "dabnn.models.hub.push",
    "register_model": "dabnn.models",
    "save_pretrained": "dabnn.models.stored.folder",
    "recalibrate_batch_norm": "dabnn.branches.calibrate",
    "sync_batch_norm_buffers": "dabnn.branches.calibrate",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
