"""Measure segmentation models: metrics and inference at any image size."""

from __future__ import annotations

from dabnn.evaluation.inference import evaluate_model, predict_logits
from dabnn.evaluation.metrics import SegmentationMetric, SegmentationResult
from dabnn.evaluation.views import predict_scales, predict_windows
from dabnn.layers.surgery import eval_mode

__all__ = [
    "SegmentationMetric",
    "SegmentationResult",
    "eval_mode",
    "evaluate_model",
    "predict_logits",
    "predict_scales",
    "predict_windows",
]
