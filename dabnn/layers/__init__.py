"""Layers with one branch per dataset."""

from dabnn.layers.batch_norm import DatasetAwareBatchNorm
from dabnn.layers.block import DatasetAwareBlock
from dabnn.layers.head import DatasetAwareHead
from dabnn.layers.switch import DatasetSwitch

__all__ = ["DatasetAwareBatchNorm", "DatasetAwareBlock", "DatasetAwareHead", "DatasetSwitch"]
