"""What the trainer checks and prepares before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from accelerate.utils import DistributedType, send_to_device
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dabnn.errors import ConfigError
from dabnn.selection import dataset_names, find_selection
from dabnn.training.batch import LossFunction
from dabnn.training.loaders import AlternatingLoaders
from dabnn.training.mixed import STREAM, MixedLoader
from dabnn.training.options import UpdateMode
from dabnn.training.processes import processes, shard
from dabnn.training.step import AlternationStep

DATA_PARALLEL = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_NPU,
    DistributedType.MULTI_XPU,
)


def trained_datasets(model: nn.Module, loaders: Mapping[str, Any] | Iterable[Any]) -> list[str]:
    """Return the datasets that are trained: those with a loader, or all where one loader mixes them.

    Raises:
        ConfigError: If there is no loader.
        UnknownDatasetError: If the model does not know a dataset.
        NotDatasetAwareError: If the model was not converted.
    """
    selection = find_selection(model)
    if not isinstance(loaders, Mapping):
        return list(selection.names)
    if not loaders:
        raise ConfigError(f"no loaders were given; the model knows {list(selection.names)}")
    for name in loaders:
        selection.index(name)
    return list(loaders)


def prepare_loaders(
    model: nn.Module,
    loaders: Mapping[str, Iterable[Any]] | Iterable[Any],
    weights: Mapping[str, float] | None,
    ratios: Mapping[str, int] | None,
    update: UpdateMode,
) -> AlternatingLoaders:
    """Return what the steps draw from: this process's parts of the loaders.

    Raises:
        ConfigError: If weights or ratios do not fit, or mixed batches do not fit the other options.
    """
    if isinstance(loaders, Mapping):
        parts = {name: shard(name, loader, training=True) for name, loader in loaders.items()}
        return AlternatingLoaders(parts, weights, ratios)
    if ratios:
        raise ConfigError("ratios are for a loader per dataset; a mixed loader decides what a batch holds")
    if update != "alternation" and processes().num_processes > 1:
        raise ConfigError(
            f"with update={update!r} every process must step as often, but mixed batches may hold other "
            "datasets in each process; use update='alternation', or one loader per dataset"
        )
    return MixedLoader(shard(STREAM, loaders, training=True), dataset_names(model), weights)


def check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    """Raise ConfigError if a trainable parameter is missing from the optimizer."""
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    if missing:
        raise ConfigError(
            f"{len(missing)} trainable parameters are not in the optimizer, first {missing[0]!r}; convert "
            "the model before building the optimizer, or freeze them with requires_grad_(False)"
        )


def losses_by_dataset(
    loss: LossFunction | Mapping[str, LossFunction], names: Iterable[str]
) -> dict[str, LossFunction]:
    """Return one loss function per dataset.

    Raises:
        ConfigError: If a dataset has none, or one is given for a dataset without a loader.
    """
    names = list(names)
    losses = dict(loss) if isinstance(loss, Mapping) else dict.fromkeys(names, loss)
    if set(losses) != set(names):
        raise ConfigError(f"losses are given for {sorted(losses)}, loaders for {sorted(names)}")
    return losses


def make_accelerator() -> Accelerator:
    """Return an accelerator for this process, one of several if a launcher started it so.

    It knows device and processes only. Mixed precision is torch's own, see `dabnn.training.precision`, so
    what a launcher or another accelerator of this process says about it changes nothing.

    Raises:
        ConfigError: If the launcher asks for more than data parallel copies of the model.
    """
    accelerator = Accelerator(
        # Given to the first accelerator of a process, it keeps the launcher's precision out; later ones must
        # not ask for another than the first.
        mixed_precision=None if is_initialized() else "no",
        cpu=processes().device.type == "cpu",
    )
    if accelerator.distributed_type not in DATA_PARALLEL:
        raise ConfigError(
            f"the launcher asks for {accelerator.distributed_type.value}, but dabnn trains data parallel "
            "copies of a model: run `accelerate config` without FSDP, DeepSpeed and Megatron, or use torchrun"
        )
    return accelerator


class Exchange(nn.Module):
    """Gives back a loss; `DistributedDataParallel` around it averages the gradient of that loss.

    It wraps no forward of the model, so whatever fails there leaves nothing behind that waits for others.
    """

    def __init__(self, step: AlternationStep) -> None:
        """Hold the step, for its parameters."""
        super().__init__()
        self.step = step

    def forward(self, loss: Tensor) -> Tensor:
        """Return the loss."""
        return loss


def prepare_exchange(accelerator: Accelerator, step: AlternationStep) -> nn.Module:
    """Move a step to the device; return what its last loss goes through for several processes to average.

    Weights and buffers of the main process replace those of the others.
    """
    exchange = Exchange(step.to(accelerator.device))
    if accelerator.num_processes == 1 or not any(p.requires_grad for p in step.parameters()):
        return exchange
    # A forward leaves out the other datasets' branches.
    wrapped = DistributedDataParallel(exchange, find_unused_parameters=True)
    # Statistics are pooled by `sync_batch_norm_buffers`; a broadcast in every step would throw away all but
    # the main process's.
    wrapped.broadcast_buffers = False
    return wrapped


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with all tensors in it on a device."""
    return send_to_device(batch, device, non_blocking=True)


def checkpoint_activations(model: nn.Module) -> None:
    """Switch on the activation checkpointing of a timm model, or of the timm encoder of an SMP model.

    Raises:
        ConfigError: If the model has none.
    """
    encoder = getattr(model, "encoder", None)
    for module in (model, encoder, getattr(encoder, "model", None)):
        if hasattr(module, "set_grad_checkpointing"):
            try:
                module.set_grad_checkpointing(True)  # type: ignore[union-attr, operator]
            except AssertionError as error:  # timm's way to say that an architecture has none
                raise ConfigError(f"{type(module).__name__}: {error}") from error
            return
    raise ConfigError(
        f"{type(model).__name__} has no set_grad_checkpointing; wrap its layers in torch.utils.checkpoint"
    )
