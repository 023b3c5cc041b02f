"""The paper's optimizer and learning-rate schedule (Section 4.1)."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR


def sgd(model: nn.Module, lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 1e-4) -> SGD:
    """Return SGD with the paper's settings over all trainable parameters of a (converted) model."""
    trainable = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return SGD(trainable, lr=lr, momentum=momentum, weight_decay=weight_decay)


def poly(optimizer: Optimizer, max_steps: int, power: float = 0.9) -> LRScheduler:
    """Return the paper's schedule: the learning rate times (1 - step / max_steps) ** power."""
    return PolynomialLR(optimizer, total_iters=max_steps, power=power)
