"""The folder of a published model: weights, config, a file for each dataset, model card and terms."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from dabnn.branches.save_load import load_dataset, save_dataset
from dabnn.errors import ConfigError
from dabnn.models.hub.card import TERMS, model_card
from dabnn.models.stored.folder import (
    PARTS,
    check_target,
    info_of,
    is_half,
    load_pretrained,
    prepare,
    round_parameters,
    write_model,
)
from dabnn.models.stored.info import ModelInfo
from dabnn.storage.atomic import folder_written_atomically

BRANCHES = "branches"
"""Folder of the files of each dataset, see `dabnn.load_dataset`."""
PUBLISHED = [*PARTS, f"{BRANCHES}/*"]
"""Patterns of all files of a model in a repository."""


def complete_info(
    info: ModelInfo,
    *,
    name: str = "",
    licence: str = "",
    notes: Path | None = None,
    data_licences: Sequence[str] = (),
) -> ModelInfo:
    """Return what is known of a model together with what a training does not know.

    Args:
        info: What is known; what is left out below stays.
        name: Its name.
        licence: Terms of the weights.
        notes: Markdown file with whatever else there is to say, such as further measurements.
        data_licences: Terms of the data, each as ``DATASET=TERMS``.

    Raises:
        ConfigError: If terms are of no dataset of the model, or the file of the notes cannot be read.
    """
    datasets = dict(info.datasets)
    for said in data_licences:
        dataset, _, terms = said.partition("=")
        if dataset not in datasets or not terms:
            raise ConfigError(
                f"terms of the data are given as DATASET=TERMS, of one of {list(datasets)}, not as {said!r}"
            )
        datasets[dataset] = replace(datasets[dataset], licence=terms)
    try:
        text = info.notes if notes is None else notes.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the notes {notes}: {error}") from error
    return replace(
        info, name=name or info.name, licence=licence or info.licence, notes=text, datasets=datasets
    )


def write_folder(
    model: nn.Module, folder: Path, info: ModelInfo | None = None, *, half: bool = False, repo: str = ""
) -> None:
    """Write what `push_to_hub` publishes: weights, config, a file for each dataset, model card and terms.

    Args:
        model: See `dabnn.save_pretrained`.
        folder: See `dabnn.save_pretrained`.
        info: See `dabnn.save_pretrained`.
        half: See `dabnn.save_pretrained`.
        repo: The repository that it is for, named on the card.

    Raises:
        ConfigError: As `dabnn.save_pretrained` does.
        CheckpointError: As `dabnn.save_pretrained` does.
    """
    check_target(folder)
    stored, info = prepare(model, info, half=half)
    with folder_written_atomically(folder, PARTS) as new:
        write_model(stored, info, new)
        _complete(stored, info, new, repo)


def copy_folder(source: Path, folder: Path, *, repo: str = "") -> None:
    """Write what `write_folder` writes, for a model that is saved already.

    Its files are checked, and copied as they are; what it lacks of card, terms and branches is added.

    Args:
        source: Its folder.
        folder: See `dabnn.save_pretrained`.
        repo: The repository that it is for, named on a new card.

    Raises:
        CheckpointError: If a file of it is damaged or does not belong to it, or ``folder`` holds others.
    """
    check_target(folder)
    model = load_pretrained(source)
    stored = copy.deepcopy(model)
    if is_half(source):
        round_parameters(stored)
    for branch in source.glob(f"{BRANCHES}/*"):
        load_dataset(model, branch)  # refuses what does not belong to the model
    with folder_written_atomically(folder, PARTS) as new:
        for part in PARTS:
            if (source / part).is_dir():
                shutil.copytree(source / part, new / part, copy_function=shutil.copyfile)
            elif (source / part).exists():
                shutil.copyfile(source / part, new / part)
        _complete(stored, info_of(model), new, repo)


def _complete(stored: nn.Module, info: ModelInfo, folder: Path, repo: str) -> None:
    """Add what the folder of a published model has besides those of `dabnn.save_pretrained`."""
    for name in info.datasets:
        if not (folder / BRANCHES / name).exists():
            save_dataset(stored, name, folder / BRANCHES / name)
    texts = {"README.md": model_card(info, repo), TERMS: f"{info.licence}\n" if info.licence else ""}
    for name, text in texts.items():
        if text and not (folder / name).exists():
            (folder / name).write_text(text, encoding="utf-8")
