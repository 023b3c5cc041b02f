"""What the Hugging Face Hub's refusals mean, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dabnn.errors import DabnnError, HubError


@contextmanager
def readable_errors(repo: str, *, writing: bool = False) -> Iterator[None]:
    """Turn whatever fails in a block into an error that says what to do; errors of dabnn stay as they are.

    Args:
        repo: The repository, as the user named it.
        writing: Whether it is written to.

    Raises:
        HubError: If the block raised something else.
    """
    try:
        yield
    except DabnnError:
        raise
    except Exception as error:  # its HTTP client raises errors of its own when a connection breaks
        raise HubError(_explain(error, repo, writing)) from error


def _explain(error: Exception, repo: str, writing: bool) -> str:
    from huggingface_hub import errors

    status = _status(error)
    login = "log in with `hf auth login`"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its terms at https://huggingface.co/{repo} and {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no such revision: {error}"
    if status == 401 and writing:
        return f"the Hugging Face Hub lets only known users write to {repo}: {login}, with a token that may"
    if status == 403:
        return (
            f"the Hugging Face Hub refuses access to {repo}: check the rights of your token and your role in "
            f"{repo.partition('/')[0]}, or {login} as someone else"
        )
    if status == 401 or isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return (
            f"there is no folder and no repository {repo} on the Hugging Face Hub, or it is private: check "
            f"the name, or {login}"
        )
    if status is None and isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return (
            f"{repo} was not downloaded wholly before, and the Hugging Face Hub cannot be reached: check the "
            f"network, and HF_HUB_OFFLINE ({error})"
        )
    return f"the Hugging Face Hub failed on {repo}: {error}"


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an error, which the client may have wrapped in others."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None
