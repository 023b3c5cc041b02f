"""Models on the Hugging Face Hub: find, download, publish."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

from torch import nn

import dabnn
from dabnn.conversion.extract import INFO
from dabnn.errors import CheckpointError, ConfigError
from dabnn.models import registry
from dabnn.models.hub.errors import readable_errors
from dabnn.models.hub.publish import PUBLISHED, write_folder
from dabnn.models.stored.folder import (
    CONFIG,
    WEIGHTS,
    info_of,
    is_whole,
    lacking,
    load_pretrained,
    read_config,
)
from dabnn.models.stored.info import DatasetInfo, ModelInfo
from dabnn.selection import find_selection
from dabnn.storage.atomic import standing

PREFIX = "hf-hub:"
REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*(@.+)?")
"""How a repository is named, and a path to a folder seldom is."""


def from_pretrained(
    name: str | Path,
    *,
    dataset: str | int | None = None,
    dataset_names: Sequence[str] | None = None,
    num_classes: Sequence[int] | None = None,
) -> nn.Module:
    """Return a pretrained model in eval mode, on the CPU.

    Args:
        name: A name or alias of `dabnn.list_models`; a folder of `dabnn.save_pretrained`; or a repository
            of the Hugging Face Hub as ``org/name``, ``org/name@revision`` or ``hf-hub:org/name``. What was
            downloaded before is not downloaded again, and is found without a network.
        dataset: Return the plain model of this dataset, as `dabnn.extract_dataset` does.
        dataset_names: Have these datasets instead. One that the model knows, with the same number of classes,
            stays as it is; the norms of others start as the average over all, their classifiers anew.
        num_classes: Number of classes of each of ``dataset_names``; left out, those that the model knows
            them with, or that their shared classifier has.

    Raises:
        UnknownModelError: No model has that name.
        HubError: The Hub cannot be reached, has no such repository, or does not give access to it.
        CheckpointError: A folder or a file is missing, was changed, is damaged or of a newer schema, or there
            are pickles only.
        ValueError: Names and numbers of classes do not fit.
    """
    folder = locate(str(name))
    entry = registry.find_entry(str(name))
    if entry is not None and entry.sha256 != read_config(folder).sha256:
        raise CheckpointError(
            f"{folder} holds other weights than this dabnn {dabnn.__version__} knows as {name}"
        )
    model = load_pretrained(folder)
    if dataset_names is not None or num_classes is not None:
        _replace_datasets(model, dataset_names or (), num_classes)
    return model if dataset is None else dabnn.extract_dataset(model, dataset).eval()


def get_pretrained_cfg(name: str | Path) -> ModelInfo:
    """Return what is known of a pretrained model, without loading its weights.

    Args:
        name: As for `from_pretrained`, or a name whose weights are not there yet.

    Raises:
        UnknownModelError: No model has that name.
        HubError: The Hub cannot be reached, has no such repository, or does not give access to it.
        CheckpointError: There is no model of dabnn, or its config is damaged or of a newer schema.
    """
    entry = registry.find_entry(str(name))
    if entry is not None and not entry.pretrained:
        return entry.describe()
    return read_config(locate(str(name), [CONFIG]))


def push_to_hub(
    model: nn.Module,
    repo: str,
    info: ModelInfo | None = None,
    *,
    private: bool = False,
    revision: str | None = None,
    half: bool = False,
    message: str = "Upload model",
) -> str:
    """Publish a model on the Hugging Face Hub, with a model card and a file for each dataset.

    Args:
        model: See `dabnn.save_pretrained`.
        repo: ``org/name``; created if absent.
        info: See `dabnn.save_pretrained`.
        private: Whether a new repository is private.
        revision: Branch to write to, created if absent; default the main one.
        half: See `dabnn.save_pretrained`.
        message: Message of the commit.

    Returns:
        Address of the commit.

    Raises:
        ConfigError: If dabnn cannot build the model again, or ``info`` has other datasets or classes.
        HubError: The Hub cannot be reached, or does not allow it: log in with ``hf auth login``.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_folder(model, folder, info, half=half, repo=repo)
        return upload(folder, repo, private=private, revision=revision, message=message)


def upload(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload model",
) -> str:
    """Publish a folder of `dabnn.models.hub.publish`; of an earlier model in the repository nothing is left.

    Args:
        folder: The folder.
        repo: See `push_to_hub`.
        private: See `push_to_hub`.
        revision: See `push_to_hub`.
        message: See `push_to_hub`.

    Returns:
        Address of the commit.

    Raises:
        HubError: The Hub cannot be reached, or does not allow it.
    """
    from huggingface_hub import HfApi

    with readable_errors(repo, writing=True):
        api = HfApi(library_name="dabnn", library_version=dabnn.__version__)
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns=PUBLISHED,
        )
    return str(commit.commit_url)


def locate(name: str, files_needed: Sequence[str] = (CONFIG, WEIGHTS)) -> Path:
    """Return the folder of a model, downloaded if need be."""
    entry = registry.find_entry(name)
    folder = standing(Path(name))
    if entry is None and folder.is_dir():
        return folder
    if entry is not None and entry.folder is not None:
        return Path(str(files("dabnn"))) / entry.folder
    repo = entry.repo if entry is not None else name.removeprefix(PREFIX)
    if repo is None:
        raise ConfigError(f"there are no weights for {name!r} yet: build it with dabnn.create_model")
    if "/" not in repo:
        raise registry.unknown(name)
    if not REPO.fullmatch(repo):
        raise CheckpointError(f"there is no folder {name}: check the path (a repository is named org/name)")
    return _download(*repo.partition("@")[::2], files_needed)


def _download(repo: str, revision: str, files_needed: Sequence[str]) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    download = partial(
        snapshot_download,
        repo,
        revision=revision or None,
        allow_patterns=list(files_needed),
        library_name="dabnn",
        library_version=dabnn.__version__,
    )
    with readable_errors(repo):
        folder = Path(download())
        for name in (WEIGHTS, CONFIG):
            if name in files_needed and not (folder / name).is_file():
                raise lacking(repo, name, HfApi().list_repo_files(repo, revision=revision or None))
        if WEIGHTS in files_needed and not is_whole(folder) and not constants.HF_HUB_OFFLINE:
            folder = Path(download(force_download=True))  # what is damaged in the cache would stay so
    return folder


def _replace_datasets(model: nn.Module, names: Sequence[str], num_classes: Sequence[int] | None) -> None:
    """Give a model other datasets, in place."""
    info = info_of(model)
    before, shared = dict(info.datasets), info.build is not None and not info.build.classifiers
    first = next(iter(before.values()))
    datasets = {}
    for number, (name, width) in enumerate(_widths(before, names, num_classes, shared).items()):
        kept = name in before and len(before[name].classes) == width
        dabnn.add_dataset(
            model,
            f"new {number}",
            num_classes=None if shared else width,
            init_from=name if kept else list(before),
        )
        new = DatasetInfo(first.classes, first.palette) if shared else DatasetInfo.numbered(width)
        datasets[name] = before[name] if kept else new
    for name in before:
        dabnn.remove_dataset(model, name)
    find_selection(model).rename(names)
    vars(model)[INFO] = replace(info, datasets=datasets)


def _widths(
    before: Mapping[str, DatasetInfo], names: Sequence[str], num_classes: Sequence[int] | None, shared: bool
) -> dict[str, int]:
    """Return the number of classes of each dataset to have, as far as the user need not say it."""
    known = {name: len(dataset.classes) for name, dataset in before.items()}
    common = next(iter(known.values())) if shared else 0
    if num_classes is None:
        found = {name: common or known.get(name, 0) for name in names}
        unknown = [name for name, width in found.items() if not width]
        if unknown:
            raise ValueError(
                f"the model does not know {unknown}, only {known}: give num_classes too, one number for each "
                "name"
            )
        num_classes = [found[name] for name in names]
    elif shared and set(num_classes) != {common}:
        raise ValueError(f"the datasets share a classifier of {common} classes here: leave num_classes out")
    if not names or len(names) != len(num_classes) or len(set(names)) != len(names):
        raise ValueError("give dataset_names, each once, and num_classes, one number for each name")
    return dict(zip(names, num_classes, strict=True))
