"""Build optimizer and schedule of an experiment."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from dabnn.experiments.config import TrainingConfig
from dabnn.training import poly, sgd


def build_optimizer(config: TrainingConfig, model: nn.Module) -> Optimizer:
    """Return the optimizer over all trainable parameters."""
    if config.optimizer == "sgd":
        return sgd(model, config.lr, config.momentum, config.weight_decay)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return AdamW(trainable, lr=config.lr, weight_decay=config.weight_decay)


def build_scheduler(config: TrainingConfig, optimizer: Optimizer, max_steps: int) -> LRScheduler:
    """Return the schedule, after a linear warm-up if there is one."""
    length = max_steps - config.warmup
    if config.schedule == "poly":
        schedule: LRScheduler = poly(optimizer, length)
    elif config.schedule == "cosine":
        schedule = CosineAnnealingLR(optimizer, length)
    else:
        schedule = ConstantLR(optimizer, factor=1.0)
    if not config.warmup:
        return schedule
    warmup = LinearLR(optimizer, start_factor=1 / config.warmup, total_iters=config.warmup)
    return SequentialLR(optimizer, [warmup, schedule], milestones=[config.warmup])
