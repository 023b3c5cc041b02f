"""One network, many datasets: dataset-aware batch norm and Dataset Alternation Training.

An implementation of Cross-Dataset Collaborative Learning (Wang et al., AAAI 2022, arXiv:2103.11351).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dabnn._version import __version__
from dabnn.adapter_files import load_dataset, save_dataset
from dabnn.adapters import add_dataset, remove_dataset
from dabnn.convert import convert_to_dataset_aware
from dabnn.extract import branch_parameters, extract_dataset, shared_parameters
from dabnn.fold import fold_batch_norm
from dabnn.layers import DatasetAwareBatchNorm, DatasetAwareBlock, DatasetAwareHead, DatasetSwitch
from dabnn.mixed import forward_mixed
from dabnn.plan import ConversionReport, plan_conversion
from dabnn.selection import (
    DatasetSelection,
    active_dataset,
    dataset_names,
    set_dataset,
    use_dataset,
)
from dabnn.state_dict import load_state_dict

if TYPE_CHECKING:
    from dabnn.calibrate import recalibrate_batch_norm, sync_batch_norm_buffers
    from dabnn.guess import DatasetGuess, guess_dataset, guess_thresholds
    from dabnn.hub import from_pretrained, get_pretrained_cfg, push_to_hub
    from dabnn.models import create_model, list_models, register_model
    from dabnn.preprocessing import preprocess
    from dabnn.pretrained import save_pretrained
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
    "__version__",
    "active_dataset",
    "add_dataset",
    "branch_parameters",
    "convert_to_dataset_aware",
    "create_model",
    "dataset_names",
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
    "DatasetGuess": "dabnn.guess",
    "guess_dataset": "dabnn.guess",
    "guess_thresholds": "dabnn.guess",
    "create_model": "dabnn.models",
    "from_pretrained": "dabnn.hub",
    "get_pretrained_cfg": "dabnn.hub",
    "list_models": "dabnn.models",
    "preprocess": "dabnn.preprocessing",
    "push_to_hub": "dabnn.hub",
    "register_model": "dabnn.models",
    "save_pretrained": "dabnn.pretrained",
    "recalibrate_batch_norm": "dabnn.calibrate",
    "sync_batch_norm_buffers": "dabnn.calibrate",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
