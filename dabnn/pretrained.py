"""A dataset-aware model as a folder: weights as safetensors, and what is needed to build it again."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_model
from torch import Tensor, nn

import dabnn
from dabnn.adapters import named_switches
from dabnn.errors import CheckpointError, ConfigError, DabnnError
from dabnn.files import checksum, written_atomically
from dabnn.layers import DatasetAwareBatchNorm
from dabnn.models.info import DatasetInfo, ModelInfo, from_json, to_json
from dabnn.models.rebuild import rebuild, widths_of
from dabnn.models.source import source_of
from dabnn.selection import find_selection, unwrap

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INFO = "dabnn_info"
"""Attribute of a model that holds its `ModelInfo`."""


def save_pretrained(
    model: nn.Module, path: str | Path, info: ModelInfo | None = None, *, half: bool = False
) -> ModelInfo:
    """Write a model to a folder that `dabnn.from_pretrained` reads; the model is not changed.

    Args:
        model: A converted model of segmentation-models-pytorch, timm or `dabnn.models`; wrappers are looked
            through.
        path: Folder of ``model.safetensors`` and ``config.json``; created if absent.
        info: What to say of the model; left out, what it was loaded with, or what can be told from it
            (classes are numbered then). Its ``source`` and ``share`` are always told from the model.
        half: Store parameters in half precision; statistics stay as they are.

    Returns:
        What was written.

    Raises:
        ConfigError: If dabnn cannot build the model again, or ``info`` has other datasets or classes.
        CheckpointError: If the files cannot be written.
        NotDatasetAwareError: If the model was not converted.
    """
    model, path = unwrap(model), Path(path)
    info = describe(model, info)
    _check_rebuild(model, info)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {path}: {error}") from error
    stored = copy.deepcopy(model)
    if half:
        for parameter in stored.parameters():
            parameter.data = parameter.data.half()
    with written_atomically(path / WEIGHTS) as file:
        save_model(stored, str(file))
        digest = checksum(file)
    with written_atomically(path / CONFIG) as file:
        file.write_text(to_json(info, digest))
    return info


def load_pretrained(path: str | Path) -> nn.Module:
    """Return the model of a folder that `save_pretrained` wrote, in eval mode and on the CPU.

    Raises:
        CheckpointError: If a file is missing, was changed, is damaged or of a newer schema, or holds pickles.
        ConfigError: If the installed libraries cannot build the model.
    """
    path = Path(path)
    info, digest = read_config(path)
    weights = _read_weights(path / WEIGHTS, digest)
    with torch.random.fork_rng():
        model = rebuild(info, list(weights))
    try:
        dabnn.load_state_dict(model, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; the libraries that it was saved with may differ") from error
    vars(model)[INFO] = info
    return model.eval()


def info_of(model: nn.Module) -> ModelInfo:
    """Return what a loaded model came with.

    Raises:
        ConfigError: If it was not loaded by dabnn.
    """
    info: ModelInfo | None = vars(unwrap(model)).get(INFO)
    if info is None:
        raise ConfigError("nothing is known of this model: load it with dabnn.from_pretrained")
    return info


def is_pretrained(path: Path) -> bool:
    """Return whether a folder is one of `save_pretrained`, complete or not."""
    try:
        content = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("library") == "dabnn"


def describe(model: nn.Module, info: ModelInfo | None = None) -> ModelInfo:
    """Return what is known of a converted model.

    Args:
        model: The model.
        info: What to say of it; left out, what it was loaded with.

    Raises:
        ConfigError: If dabnn cannot build the model again, or ``info`` has other datasets or classes.
        NotDatasetAwareError: If the model was not converted.
    """
    names, model = find_selection(model).names, unwrap(model)
    source = source_of(dabnn.extract_dataset(model, 0, copy=False))
    shares = {
        switch.share for _, switch in named_switches(model) if isinstance(switch, DatasetAwareBatchNorm)
    }
    given = info or vars(model).get(INFO)
    widths = widths_of(model)
    if given is None:
        given = ModelInfo(source, dict(zip(names, map(DatasetInfo.numbered, widths), strict=True)))
    said = [(name, len(dataset.classes)) for name, dataset in given.datasets.items()]
    found = list(zip(names, widths, strict=True))
    if said != found:
        raise ConfigError(f"the info has the datasets and numbers of classes {said}, the model has {found}")
    return replace(given, source=source, share=shares.pop() if len(shares) == 1 else None)


def _check_rebuild(model: nn.Module, info: ModelInfo) -> None:
    """Refuse what could be saved, but not loaded again."""
    own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    try:
        with torch.random.fork_rng():  # not on the meta device: some models cannot be built there
            new = {key: tuple(t.shape) for key, t in rebuild(info, list(own)).state_dict().items()}
    except DabnnError as error:
        raise ConfigError(f"this model could be saved, but not built again: {error}") from error
    different = sorted(key for key in {*own, *new} if own.get(key) != new.get(key))
    if different:
        raise ConfigError(
            f"this model could be saved, but not built again: {info.source.name} of {info.source.library} "
            f"with {dict(info.source.arguments)} differs at {len(different)} places, first {different[0]!r}; "
            "was it changed after it was built?"
        )


def read_config(path: Path) -> tuple[ModelInfo, str]:
    """Return what a folder says of its model, and the checksum of its weights."""
    try:
        text = (path / CONFIG).read_text()
    except OSError as error:
        found = ", ".join(sorted(file.name for file in path.glob("*"))) or "nothing"
        raise CheckpointError(
            f"{path} holds no model of dabnn: {CONFIG} is missing, there is {found}"
        ) from error
    return from_json(text, str(path / CONFIG))


def _read_weights(file: Path, digest: str) -> Mapping[str, Tensor]:
    if not file.is_file():
        pickles = [p.name for p in file.parent.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        more = (
            f"; {', '.join(pickles)} may run code when loaded, and dabnn does not read it" if pickles else ""
        )
        raise CheckpointError(f"{file} is missing{more}: ask for weights as safetensors")
    if checksum(file) != digest:
        raise CheckpointError(f"{file} was changed or cut off after it was saved: get it again")
    try:
        with safe_open(file, framework="pt") as stored:
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
            # A tensor with two names is stored once, its other name in the metadata.
            same = {n: o for n, o in (stored.metadata() or {}).items() if o in weights}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged: {error}; get it again") from error
    return weights | {name: weights[other] for name, other in same.items()}
