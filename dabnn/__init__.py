"""One network, many datasets: dataset-aware batch norm and Dataset Alternation Training.

An implementation of Cross-Dataset Collaborative Learning (Wang et al., AAAI 2022, arXiv:2103.11351).
"""

from __future__ import annotations

from dabnn.convert import convert_to_dataset_aware
from dabnn.extract import branch_parameters, extract_dataset, shared_parameters
from dabnn.layers import DatasetAwareBatchNorm, DatasetAwareBlock, DatasetAwareHead, DatasetSwitch
from dabnn.plan import ConversionReport, plan_conversion
from dabnn.selection import (
    DatasetSelection,
    active_dataset,
    dataset_names,
    set_dataset,
    use_dataset,
)
from dabnn.state_dict import load_state_dict

__version__ = "0.1.0"
