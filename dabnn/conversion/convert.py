"""Make any model dataset-aware: one branch per dataset for every batch norm and classifier."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from dabnn.conversion.classifiers import HeadFactory, resize_classifier, width_of
from dabnn.conversion.libraries import block_plain_saving
from dabnn.conversion.plan import BATCH_NORMS, Plan, make_plan
from dabnn.errors import ClassifierNotFoundError, ConversionError
from dabnn.layers import DatasetAwareBatchNorm, DatasetAwareHead, DatasetSwitch
from dabnn.layers.batch_norm import Share
from dabnn.layers.surgery import copy_without_hooks, memo_outside, move_hooks, replace_modules
from dabnn.selection import SELECTION_ATTRIBUTE, DatasetSelection

logger = logging.getLogger(__name__)


def convert_to_dataset_aware(
    model: nn.Module,
    n_datasets: int | None = None,
    *,
    dataset_names: Sequence[str] | None = None,
    num_classes: Sequence[int] | None = None,
    classifier: str | Sequence[str] | None = None,
    head_factory: HeadFactory | None = None,
    skip: str | Sequence[str] = (),
    norm_types: Sequence[type[nn.Module]] = BATCH_NORMS,
    share_affine: bool = False,
    share_statistics: bool = False,
) -> nn.Module:
    """Give every batch norm, and optionally every classifier, one branch per dataset.

    The model is changed in place and returned; a model that *is* a batch norm returns its wrapper, so
    always use the return value. Right after conversion every branch computes bit for bit what the
    original did (classifiers with another number of classes are newly initialised). Branch 0 keeps the
    original parameters, the other branches own copies; hooks, ``requires_grad``, dtype, device and
    train/eval mode are kept. Convert first, then build the optimizer. On any error the model is left
    untouched.

    Args:
        model: Any model with batch norms, on any device.
        n_datasets: Number of datasets; may be left out when ``dataset_names`` is given.
        dataset_names: One name per dataset; default ``dataset_0``, ``dataset_1`` ...
        num_classes: One number of classes per dataset: each dataset gets its own classifier. Left out,
            only norms are converted and the classifier stays shared.
        classifier: Path or paths of the classifier layers, for models dabnn does not know.
        head_factory: ``head_factory(old, num_classes)`` builds a classifier, for layers that are not a
            plain linear or convolution: a new module for every dataset, on the device and with the
            dtype of ``old``. It takes over the train/eval mode of ``old``.
        skip: Paths of norms that stay shared; shell patterns such as ``encoder.*`` work. Each must
            match at least one norm.
        norm_types: Classes of the norms to convert, subclasses included, such as
            ``[torch.nn.LayerNorm]`` for a transformer; default every batch norm.
        share_affine: All datasets share gamma and beta; only their statistics are private.
        share_statistics: All datasets share the running statistics; only gamma and beta are private.

    Returns:
        The dataset-aware model.

    Raises:
        ConversionError: If the model is scripted, compiled, wrapped for parallel training, lazy or
            converted already, or uses a norm or classifier outside its module tree.
        NoBatchNormFoundError: If there is no batch norm to convert.
        ClassifierNotFoundError: If the classifier is not found or cannot be resized.
        ValueError: If the arguments contradict each other.

    Example:
        >>> import torch, dabnn
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> net = dabnn.convert_to_dataset_aware(net, dataset_names=["cityscapes", "camvid"])
        >>> with dabnn.use_dataset(net, "camvid"):
        ...     net(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 8, 6, 6])
    """
    if share_affine and share_statistics:
        raise ValueError("share_affine and share_statistics together leave the norms nothing of their own")
    plan = make_plan(
        model, n_datasets, dataset_names, num_classes, classifier, head_factory, skip, norm_types
    )
    plan.warn()
    share: Share | None = "affine" if share_affine else "statistics" if share_statistics else None
    selection = DatasetSelection(plan.report.dataset_names)
    switches = _build_switches(model, plan, selection, head_factory or resize_classifier, share)
    for original, switch in switches.items():
        move_hooks(original, switch)
    root = replace_modules(model, switches)
    vars(root)[SELECTION_ATTRIBUTE] = selection
    for module in root.modules():
        block_plain_saving(module)
    logger.info("%s", plan.report)
    return root


def _build_switches(
    model: nn.Module, plan: Plan, selection: DatasetSelection, head_factory: HeadFactory, share: Share | None
) -> dict[nn.Module, DatasetSwitch]:
    """Build every switch beside the model, which is not changed yet; by the module that it replaces."""
    switches: dict[nn.Module, DatasetSwitch] = {}
    sites = (*plan.norms.values(), *plan.classifiers.values())
    memos = [memo_outside(model, sites) for _ in selection.names[1:]]
    for path, norm in plan.norms.items():
        try:
            switches[norm] = DatasetAwareBatchNorm.from_norm(norm, selection, memos, share)
        except Exception as error:
            raise ConversionError(f"{path} ({type(norm).__name__}) cannot be copied: {error}") from error
    num_classes = plan.report.num_classes or ()
    for path, old in plan.classifiers.items():
        try:
            heads = _build_heads(old, num_classes, head_factory, memos)
        except Exception as error:
            raise ClassifierNotFoundError(
                f"classifier {path} ({type(old).__name__}) cannot be rebuilt for {list(num_classes)} "
                f"classes: {error}; pass head_factory(old, num_classes)"
            ) from error
        switches[old] = DatasetAwareHead(heads, selection)
    return switches


def _build_heads(
    old: nn.Module, num_classes: Sequence[int], head_factory: HeadFactory, memos: Sequence[dict[int, Any]]
) -> list[nn.Module]:
    """Keep the original for the first dataset that fits it, copy it for others that do, build the rest."""
    width = width_of(old) if head_factory is resize_classifier else None
    heads: list[nn.Module] = []
    for number, memo in zip(num_classes, [{}, *memos], strict=True):
        if number == width:
            heads.append(copy_without_hooks(old, memo) if old in heads else old)
            continue
        head = head_factory(old, number)
        if not isinstance(head, nn.Module) or head in heads:
            raise TypeError(f"head_factory must return a new module for every dataset, got {head!r}")
        heads.append(head if head is old else head.train(old.training))
    return heads
