"""Models on the Hugging Face Hub: find, download, publish."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from torch import nn

import dabnn
from dabnn.card import TERMS, model_card
from dabnn.errors import ConfigError, HubError
from dabnn.extract import INFO
from dabnn.models import _registry
from dabnn.models.info import DatasetInfo, ModelInfo
from dabnn.pretrained import CONFIG, WEIGHTS, info_of, load_pretrained, read_config, save_pretrained
from dabnn.selection import find_selection

PREFIX = "hf-hub:"
BRANCHES = "branches"
"""Folder of the files of each dataset, see `dabnn.load_dataset`."""


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
        num_classes: Number of classes of each of ``dataset_names``.

    Raises:
        UnknownModelError: No model has that name.
        HubError: The Hub cannot be reached, has no such repository, or does not give access to it.
        CheckpointError: A file is missing, was changed, is damaged or of a newer schema, or holds pickles.
        ValueError: Names and numbers of classes do not fit.
    """
    model = load_pretrained(_locate(str(name)))
    if dataset_names is not None or num_classes is not None:
        _replace_datasets(model, dataset_names or (), num_classes or ())
    return model if dataset is None else dabnn.extract_dataset(model, dataset).eval()


def get_pretrained_cfg(name: str | Path) -> ModelInfo:
    """Return what is known of a pretrained model, without loading its weights.

    Args:
        name: As for `from_pretrained`.

    Raises:
        UnknownModelError: No model has that name.
        HubError: The Hub cannot be reached, has no such repository, or does not give access to it.
        CheckpointError: There is no model of dabnn, or its config is damaged or of a newer schema.
    """
    return read_config(_locate(str(name), [CONFIG]))[0]


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
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        write_folder(model, Path(folder), info, half=half, repo=repo)
        with _readable_errors(repo):
            api = HfApi(library_name="dabnn", library_version=dabnn.__version__)
            api.create_repo(repo, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo, folder_path=folder, revision=revision, commit_message=message
            )
    return str(commit.commit_url)


def write_folder(
    model: nn.Module, folder: Path, info: ModelInfo | None = None, *, half: bool = False, repo: str = ""
) -> None:
    """Write what `push_to_hub` publishes: weights, config, a file for each dataset, model card and terms."""
    info = save_pretrained(model, folder, info, half=half)
    shutil.rmtree(folder / BRANCHES, ignore_errors=True)  # of an earlier model
    for name in info.datasets:
        dabnn.save_dataset(model, name, folder / BRANCHES / name)
    (folder / "README.md").write_text(model_card(info, repo))
    (folder / TERMS).unlink(missing_ok=True)
    if info.licence:
        (folder / TERMS).write_text(f"{info.licence}\n")


def _locate(name: str, files_needed: Sequence[str] = (CONFIG, WEIGHTS)) -> Path:
    """Return the folder of a model, downloaded if need be."""
    entry = _registry.find_entry(name)
    if entry is None and Path(name).is_dir():
        return Path(name)
    if entry is not None and entry.folder is not None:
        return Path(str(files("dabnn"))) / entry.folder
    repo = entry.repo if entry is not None else name.removeprefix(PREFIX)
    if repo is None:
        raise ConfigError(f"there are no weights for {name!r} yet: build it with dabnn.create_model")
    if "/" not in repo:
        raise _registry.unknown(name)
    return _download(*repo.partition("@")[::2], files_needed)


def _download(repo: str, revision: str, files_needed: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    with _readable_errors(repo):
        folder = snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=list(files_needed),
            library_name="dabnn",
            library_version=dabnn.__version__,
        )
    return Path(folder)


@contextmanager
def _readable_errors(repo: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repo} is gated: accept its terms at https://huggingface.co/{repo} and log in with "
            "`hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repo} has no such revision: {error}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise HubError(
            f"there is no folder and no repository {repo} on the Hugging Face Hub, or it is private: check "
            "the name, or log in with `hf auth login`"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"{repo} was not downloaded before, and the Hugging Face Hub cannot be reached: check the "
            f"network, and HF_HUB_OFFLINE ({error})"
        ) from error
    except Exception as error:  # its HTTP client raises errors of its own when a connection breaks
        raise HubError(f"the Hugging Face Hub failed on {repo}: {error}") from error


def _replace_datasets(model: nn.Module, names: Sequence[str], num_classes: Sequence[int]) -> None:
    """Give a model other datasets, in place."""
    if not names or len(names) != len(num_classes) or len(set(names)) != len(names):
        raise ValueError("give dataset_names, each once, and num_classes, one number for each name")
    info = info_of(model)
    before = dict(info.datasets)
    datasets = {}
    for number, (name, width) in enumerate(zip(names, num_classes, strict=True)):
        kept = name in before and len(before[name].classes) == width
        dabnn.add_dataset(model, f"new {number}", num_classes=width, init_from=name if kept else list(before))
        datasets[name] = before[name] if kept else DatasetInfo.numbered(width)
    for name in before:
        dabnn.remove_dataset(model, name)
    find_selection(model).rename(names)
    vars(model)[INFO] = replace(info, datasets=datasets)
