"""Names of models, folders and repositories, and the folder that each stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

from dabnn._version import __version__
from dabnn.errors import CheckpointError, ConfigError
from dabnn.models import registry
from dabnn.models.hub.errors import readable_errors
from dabnn.models.stored.folder import CONFIG, WEIGHTS, is_whole, lacking, model_folder
from dabnn.storage.atomic import standing

PREFIX = "hf-hub:"
REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*(@.+)?")
"""How a repository is named, and a path to a folder seldom is."""


def locate(name: str, files_needed: Sequence[str] = (CONFIG, WEIGHTS)) -> Path:
    """Return the folder of a model, downloaded if need be."""
    entry = registry.find_entry(name)
    folder = standing(Path(name))
    if entry is None and folder.is_dir():
        return model_folder(folder)
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
        library_version=__version__,
    )
    with readable_errors(repo):
        folder = Path(download())
        for name in (WEIGHTS, CONFIG):
            if name in files_needed and not (folder / name).is_file():
                raise lacking(repo, name, HfApi().list_repo_files(repo, revision=revision or None))
        if WEIGHTS in files_needed and not is_whole(folder) and not constants.HF_HUB_OFFLINE:
            folder = Path(download(force_download=True))  # what is damaged in the cache would stay so
    return folder
