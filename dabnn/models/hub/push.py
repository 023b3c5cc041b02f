"""Publish a model on the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from dabnn._version import __version__
from dabnn.models.hub.errors import readable_errors
from dabnn.models.hub.publish import PUBLISHED, write_folder
from dabnn.models.stored.info import ModelInfo


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
        api = HfApi(library_name="dabnn", library_version=__version__)
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
