"""Dataset Alternation Training: the step, the trainer and what surrounds them."""

from dabnn.training.batch import Draw, cross_entropy
from dabnn.training.callbacks import Callback, CSVLogger, EvaluateEvery, ProgressBar, TensorBoardLogger
from dabnn.training.checkpoint import latest_checkpoint
from dabnn.training.dilation import FastDilation
from dabnn.training.mixed import MixedLoader
from dabnn.training.recipe import poly, sgd
from dabnn.training.step import AlternationStep
from dabnn.training.trainer import AlternationTrainer

__all__ = [
    "AlternationStep",
    "AlternationTrainer",
    "CSVLogger",
    "Callback",
    "Draw",
    "EvaluateEvery",
    "FastDilation",
    "MixedLoader",
    "ProgressBar",
    "TensorBoardLogger",
    "cross_entropy",
    "latest_checkpoint",
    "poly",
    "sgd",
]
