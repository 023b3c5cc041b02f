"""A dataset-aware model as a folder: weights as safetensors, and what is needed to build it again."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import Tensor, nn

from dabnn.conversion.attached import attach_info, attached_info
from dabnn.conversion.state_dict import load_state_dict
from dabnn.errors import CheckpointError, ConfigError, listed
from dabnn.models.stored.info import DatasetInfo, ModelInfo, explain, from_json, to_json
from dabnn.models.stored.rebuild import build_of, check_rebuild, rebuild, widths_of
from dabnn.selection import find_selection, unwrap
from dabnn.storage.atomic import check_replaceable, checksum, folder_written_atomically, standing
from dabnn.storage.tensors import read_safetensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PARTS = (CONFIG, WEIGHTS, "README.md", "LICENSE", "branches")
"""What the folder of a model consists of: two files, and what is added for publishing it."""
MODEL = "model"
"""Folder of the model in that of a finished training."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def save_pretrained(
    model: nn.Module, path: str | Path, info: ModelInfo | None = None, *, half: bool = False
) -> ModelInfo:
    """Write a model to a folder that `dabnn.from_pretrained` reads; the model is not changed.

    Args:
        model: A converted model of segmentation-models-pytorch, timm or `dabnn.models`; wrappers are looked
            through.
        path: Folder of ``model.safetensors`` and ``config.json``; created if absent. A model of dabnn that
            is there is replaced as a whole.
        info: What to say of the model; left out, what it was loaded with, or what can be told from it
            (classes are numbered then). Its ``build`` is always told from the model.
        half: Store parameters in half precision; statistics stay as they are.

    Returns:
        What was written.

    Raises:
        ConfigError: If dabnn cannot build the model again, ``info`` has other datasets or classes, or a
            parameter is too large for half precision.
        CheckpointError: If the files cannot be written, or the folder holds others; nothing was changed then.
        NotDatasetAwareError: If the model was not converted.
    """
    path = Path(path)
    check_target(path)
    stored, info = prepare(model, info, half=half)
    with folder_written_atomically(path, PARTS) as folder:
        return write_model(stored, info, folder)


def check_target(folder: Path) -> None:
    """Refuse a folder that holds anything but a model of dabnn: it is about to be replaced.

    Raises:
        CheckpointError: If it does.
    """
    check_replaceable(folder, PARTS if is_pretrained(folder) else ())


def prepare(
    model: nn.Module, info: ModelInfo | None = None, *, half: bool = False
) -> tuple[nn.Module, ModelInfo]:
    """Return a copy of a model with its tensors as they are stored, and what is said of it.

    Raises:
        ConfigError: As `save_pretrained` does.
        NotDatasetAwareError: If the model was not converted.
    """
    model = unwrap(model)
    info = describe(model, info)
    check_rebuild(model, info)
    stored = copy.deepcopy(model)
    if half:
        round_parameters(stored)
    return stored, info


def round_parameters(model: nn.Module) -> None:
    """Make the parameters of a model half precision, in place; its statistics stay as they are.

    Raises:
        ConfigError: If one is too large for it; nothing was changed then.
    """
    for name, parameter in model.named_parameters():
        if (parameter.half().isinf() & parameter.isfinite()).any():
            raise ConfigError(
                f"{name} holds values up to {parameter.abs().max():.3g}, half precision ends at "
                f"{torch.finfo(torch.half).max:.0f}: save the model without half"
            )
    for parameter in model.parameters():
        parameter.data = parameter.data.half()


def write_model(stored: nn.Module, info: ModelInfo, folder: Path) -> ModelInfo:
    """Write the files of `save_pretrained` into a folder that is not in use yet; return what they say."""
    save_model(stored, str(folder / WEIGHTS))
    info = replace(info, sha256=checksum(folder / WEIGHTS))
    (folder / CONFIG).write_text(to_json(info), encoding="utf-8")
    return info


def load_pretrained(path: str | Path) -> nn.Module:
    """Return the model of a folder that `save_pretrained` wrote, in eval mode and on the CPU.

    Raises:
        CheckpointError: If a file is missing, was changed, is damaged or of a newer schema, or holds pickles.
        ConfigError: If the installed libraries cannot build the model.
    """
    path = Path(path)
    info = read_config(path)
    weights = _read_weights(path / WEIGHTS, info.sha256)
    with torch.random.fork_rng():
        model = rebuild(info)
    try:
        load_state_dict(model, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; the libraries that it was saved with may differ") from error
    attach_info(model, info)
    return model.eval()


def info_of(model: nn.Module) -> ModelInfo:
    """Return what a loaded model came with.

    Raises:
        ConfigError: If it was not loaded by dabnn.
    """
    info: ModelInfo | None = attached_info(model)
    if info is None:
        raise ConfigError("nothing is known of this model: load it with dabnn.from_pretrained")
    return info


def is_pretrained(path: Path) -> bool:
    """Return whether a folder is one of `save_pretrained`, complete or not."""
    try:
        content = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("library") == "dabnn"


def model_folder(path: Path) -> Path:
    """Return the folder of a model: the one given, or the one in the folder of a finished training."""
    inside = standing(path / MODEL)
    return inside if not is_pretrained(path) and is_pretrained(inside) else path


def is_half(path: Path) -> bool:
    """Return whether the parameters in a folder of `save_pretrained` are half precision."""
    return any(tensor.dtype == torch.half for tensor in read_safetensors(path / WEIGHTS).values())


def describe(model: nn.Module, info: ModelInfo | None = None) -> ModelInfo:
    """Return what is known of a converted model.

    Args:
        model: The model.
        info: What to say of it; left out, what it was loaded with.

    Raises:
        ConfigError: If dabnn cannot build the model again, or ``info`` has other datasets or classes.
        NotDatasetAwareError: If the model was not converted.
    """
    names = find_selection(model).names
    model = unwrap(model)
    build = build_of(model)
    found = dict(zip(names, widths_of(model), strict=True))
    try:
        given = info or _known(attached_info(model), found)
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


def is_whole(path: Path) -> bool:
    """Return whether the weights in a folder are those that its config was written with."""
    return checksum(path / WEIGHTS) == read_config(path).sha256


def read_config(path: Path) -> ModelInfo:
    """Return what a folder says of its model."""
    if not is_pretrained(path) and (path / "result.json").exists():
        raise lacking(path, CONFIG, ["result.json"])
    try:
        text = (path / CONFIG).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path / CONFIG} is damaged ({error}); get it again") from error
    except OSError as error:
        raise lacking(path, CONFIG, [file.name for file in path.glob("*")]) from error
    return from_json(text, str(path / CONFIG))


def lacking(where: str | Path, name: str, found: Collection[str]) -> CheckpointError:
    """Return the error for a folder or repository that is not one of a model.

    Args:
        where: What the user called it.
        name: The file that is missing.
        found: The files that are there.
    """
    found = sorted(found)
    if "result.json" in found:
        return CheckpointError(
            f"{where} is a training of an earlier dabnn: make a model of it with "
            f"`dabnn publish {where} --folder NEW_FOLDER`"
        )
    pickles = [file for file in found if file.endswith(PICKLES)]
    hint = ""
    if pickles and WEIGHTS not in found:
        hint = (
            f"; {listed(pickles)} may run code when loaded, and dabnn does not read it: ask for weights as "
            "safetensors"
        )
    elif "experiment.json" in found:
        hint = "; it is a training that is not finished: start the same training again"
    return CheckpointError(
        f"{where} holds no model of dabnn: {name} is missing, there is {listed(found) or 'nothing'}{hint}"
    )


def _read_weights(file: Path, digest: str) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise lacking(file.parent, file.name, [other.name for other in file.parent.glob("*")])
    try:
        if checksum(file) == digest:
            return read_safetensors(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; get it again") from error
    raise CheckpointError(f"{file} was changed or cut off after it was saved: get it again")
