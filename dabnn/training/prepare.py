"""What the trainer checks and prepares before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, GradientAccumulationPlugin
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dabnn.errors import ConfigError
from dabnn.selection import find_selection
from dabnn.training.batch import LossFunction
from dabnn.training.processes import processes
from dabnn.training.step import BACKWARD, AlternationStep

DATA_PARALLEL = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_NPU,
    DistributedType.MULTI_XPU,
)


def check_options(
    *,
    backward: str,
    update: str,
    precision: str,
    clip_norm: float | None,
    ema_decay: float | None,
    run_dir: str | Path | None,
    checkpoint_every: int | None,
    activation_checkpointing: bool,
) -> None:
    """Raise ConfigError if an option of the trainer is out of range, or two contradict each other."""
    for name, value, allowed in (
        ("backward", backward, tuple(BACKWARD)),
        ("update", update, ("alternation", "dataset", "shuffled")),
        ("precision", precision, ("no", "bf16", "fp16")),
    ):
        if value not in allowed:
            raise ConfigError(f"{name} must be one of {allowed}, got {value!r}")
    if clip_norm is not None and not clip_norm > 0:
        raise ConfigError(f"clip_norm must be positive, got {clip_norm!r}")
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise ConfigError(f"ema_decay must be in [0, 1), got {ema_decay!r}")
    if checkpoint_every is not None and (run_dir is None or checkpoint_every < 1):
        raise ConfigError(f"checkpoint_every={checkpoint_every!r} must be positive, and needs run_dir")
    if activation_checkpointing and backward == "joint":
        raise ConfigError(
            "activation checkpointing recomputes forwards during the one joint backward, when their datasets "
            "are no longer active; use backward='per_dataset'"
        )


def check_loaders(model: nn.Module, loaders: Mapping[str, Any]) -> None:
    """Check that there are loaders, for datasets of the model.

    Raises:
        ConfigError: If there is no loader.
        UnknownDatasetError: If the model does not know a dataset.
        NotDatasetAwareError: If the model was not converted.
    """
    selection = find_selection(model)
    if not loaders:
        raise ConfigError(f"no loaders were given; the model knows {list(selection.names)}")
    for name in loaders:
        selection.index(name)


def check_mixed(update: str) -> None:
    """Raise ConfigError if mixed batches do not fit the options."""
    if update != "alternation" and processes().num_processes > 1:
        raise ConfigError(
            f"with update={update!r} every process must step as often, but mixed batches may hold other "
            "datasets in each process; use update='alternation', or one loader per dataset"
        )


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


def make_accelerator(precision: str) -> Accelerator:
    """Return an accelerator for this process, one of several if a launcher started it so.

    Raises:
        ConfigError: If the device does not support the precision, or the launcher asks for more than data
            parallel copies of the model.
    """
    # Accelerate keeps the precision process-wide and refuses another one: a second trainer may differ.
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != precision:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=processes().device.type == "cpu",
        # A plugin, for an environment variable of `accelerate launch` would win over the plain argument.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # A forward leaves out the other datasets' branches.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.distributed_type not in DATA_PARALLEL:
        raise ConfigError(
            f"the launcher asks for {accelerator.distributed_type.value}, but dabnn trains data parallel "
            "copies of a model: run `accelerate config` without FSDP, DeepSpeed and Megatron, or use torchrun"
        )
    if precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would train in full precision
        raise ConfigError("precision='fp16' needs a GPU; use 'bf16' or 'no'")
    return accelerator


def prepare_step(accelerator: Accelerator, step: AlternationStep) -> nn.Module:
    """Move a step to the device and wrap it for mixed precision and several processes.

    Weights and buffers of the main process replace those of the others.
    """
    prepared: nn.Module = accelerator.prepare(step)
    if isinstance(prepared, DistributedDataParallel):
        # Statistics are pooled by `sync_batch_norm_buffers`; a broadcast in every forward would throw away
        # all but the main process's.
        prepared.broadcast_buffers = False
    return prepared


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
