"""A dataset-aware model as a folder: weights as safetensors, and what is needed to build it again."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import Tensor, nn

import dabnn
from dabnn.errors import CheckpointError, ConfigError, DabnnError
from dabnn.extract import INFO
from dabnn.files import checksum, read_safetensors, written_atomically
from dabnn.models.info import DatasetInfo, ModelInfo, explain, from_json, to_json
from dabnn.models.rebuild import build_of, rebuild, widths_of
from dabnn.selection import find_selection, unwrap

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_pretrained(
    model: nn.Module, path: str | Path, info: ModelInfo | None = None, *, half: bool = False
) -> ModelInfo:
    """Write a model to a folder that `dabnn.from_pretrained` reads; the model is not changed.

    Args:
        model: A converted model of segmentation-models-pytorch, timm or `dabnn.models`; wrappers are looked
            through.
        path: Folder of ``model.safetensors`` and ``config.json``; created if absent.
        info: What to say of the model; left out, what it was loaded with, or what can be told from it
            (classes are numbered then). Its ``build`` is always told from the model.
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
    # Neither file is replaced before both are written: a folder is never half old and half new.
    with written_atomically(path / CONFIG) as config, written_atomically(path / WEIGHTS) as file:
        save_model(stored, str(file))
        config.write_text(to_json(info, checksum(file)))
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
        model = rebuild(info)
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
    build = build_of(model)
    found = dict(zip(names, widths_of(model), strict=True))
    try:
        given = info or _known(vars(model).get(INFO), found)
        said = {name: len(dataset.classes) for name, dataset in given.datasets.items()}
        if list(said.items()) != list(found.items()):
            raise ConfigError(f"the info has datasets and classes {said}, the model has {found}")
        return replace(given, build=build)
    except ValidationError as error:
        raise ConfigError(f"the model cannot be described: {explain(error)}") from None


def _known(info: ModelInfo | None, widths: Mapping[str, int]) -> ModelInfo:
    """Return what a model was loaded with, for the datasets that it has by now."""
    before = info.datasets if info is not None else {}
    datasets = {
        name: before[name]
        if name in before and len(before[name].classes) == width
        else DatasetInfo.numbered(width)
        for name, width in widths.items()
    }
    return ModelInfo(datasets) if info is None else replace(info, datasets=datasets)


def _check_rebuild(model: nn.Module, info: ModelInfo) -> None:
    """Refuse what could be saved, but not loaded again as it is."""
    try:
        with torch.random.fork_rng():  # not on the meta device: some models cannot be built there
            new = rebuild(info)
    except DabnnError as error:
        raise ConfigError(f"this model could be saved, but not built again: {error}") from error
    own, other = (_facts(each) for each in (model, new))
    different = sorted(key for key in {*own, *other} if own.get(key) != other.get(key))
    if different:
        place = different[0]
        raise ConfigError(
            f"this model could be saved, but not built again: what its library builds differs at "
            f"{len(different)} places, first {place!r}: {other.get(place)} instead of {own.get(place)}; was "
            "it changed after it was built?"
        )


def _facts(model: nn.Module) -> dict[str, str]:
    """Return shapes of tensors and settings of layers, by path."""
    shapes = {key: str(tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
    return shapes | {
        path: f"{type(module).__name__}({module.extra_repr()})" for path, module in model.named_modules()
    }


def read_config(path: Path) -> tuple[ModelInfo, str]:
    """Return what a folder says of its model, and the checksum of its weights."""
    try:
        text = (path / CONFIG).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path / CONFIG} is damaged ({error}); get it again") from error
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
        return read_safetensors(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged: {error}; get it again") from error
