"""Start the network of one dataset from the trained network of another."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

import dabnn
from dabnn.experiments.build import new_head
from dabnn.layers import DatasetAwareBatchNorm
from dabnn.layers.switch import named_switches


def transfer(
    model: nn.Module, num_classes: Mapping[str, int], *, keep: bool, reset: bool, freeze: bool
) -> nn.Module:
    """Return a single-dataset network with another dataset added to it, in place.

    Args:
        model: The single-dataset network; changed and returned.
        num_classes: Number of classes of the one dataset to add, by its name.
        keep: Keep the first dataset beside the new one, else take it out: finetuning.
        reset: The new dataset's norms start anew, as in Chang et al. (2019), else as those of the first.
        freeze: Let only what belongs to the new dataset be trained.
    """
    (source,) = dabnn.dataset_names(model)
    ((target, classes),) = num_classes.items()
    dabnn.add_dataset(model, target, num_classes=classes, init_from=source, head_factory=new_head)
    if reset:
        for _, switch in named_switches(model):
            if isinstance(switch, DatasetAwareBatchNorm):
                _reset(switch.branches[-1])
    if not keep:
        dabnn.remove_dataset(model, source)
    if freeze:
        model.requires_grad_(False)
        for parameter in dabnn.branch_parameters(model, target):
            parameter.requires_grad_(True)
    return model


def _reset(norm: nn.Module) -> None:
    for module in norm.modules():
        if isinstance(module, _NormBase):
            module.reset_parameters()
