"""What the Hub and the way to it refuse, as errors of the SDK."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from saeserve.client.errors import (
    ClientError,
    DataLossError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnavailableError,
)
from saeserve.client.refusals import damaged as client_damaged

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_TOKEN_REMEDY = "look at its permissions, or name a file with another one: --token-file"
_AGAIN = "repeat the command: it goes on from there"
_SAID = 300
"""Characters of what the Hub says that an error shows."""


@contextlib.contextmanager
def hub_errors(repo: str) -> Generator[None]:
    """Raise what the Hub's library raises as ClientError; `repo` names the repository in it."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except (OSError, RuntimeError, ValueError, HTTPError) as error:
        for each in _chain(error):
            if isinstance(each, HfHubHTTPError):
                raise _answered(each, repo) from error
            if isinstance(each, (HTTPError, OfflineModeIsEnabled)):
                raise _unreachable(str(each)) from error
        if isinstance(error, LocalEntryNotFoundError):
            raise _unreachable(str(error)) from error
        if isinstance(error, OSError):
            # Of this machine: a full disk, a cache that cannot be written.
            raise
        raise _not_taken(repo, str(error)) from error


def damaged(name: str, repo: str, whose: str, remedy: str) -> DataLossError:
    """The error for a file whose bytes are not those that `whose` sha256 is of."""
    return client_damaged(
        f"{name} of {repo} does not have the sha256 that {whose} says",
        field="repo",
        remedy=remedy,
    )


def unfit(message: str, *, remedy: str) -> PreconditionError:
    """The error for a repository that holds something else than is asked for."""
    return PreconditionError(message, reason="HUB_REPO_UNFIT", field="repo", remedy=remedy)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it: uploads are wrapped once more."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _answered(error: HfHubHTTPError, repo: str) -> ClientError:
    """From the Hub's answer."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status, said = error.response.status_code, _said(error)
    if isinstance(error, GatedRepoError):
        return _forbidden(
            f"{repo} is gated, and the token's user has no access to it{said}",
            remedy="ask for access on its page, or give the token of somebody who has it",
        )
    if isinstance(error, RevisionNotFoundError):
        return _missing(f"{repo} has no such revision", "name a branch, a tag or a commit")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return _missing(
            f"the Hub has no repository {repo} that it shows to this token{said}",
            "correct the name; for a private one give a token of its owner: hf auth login, "
            "HF_TOKEN or --token-file",
        )
    if status == 401:
        return _refused_token(f"the Hub does not accept the token{said}")
    if status == 403:
        return _forbidden(f"the token may not do this with {repo}{said}", remedy=_TOKEN_REMEDY)
    if status == 409 or status == 412:
        return _conflict(f"{repo} was changed by somebody else meanwhile{said}")
    if status < 500 and status not in (408, 429):
        return _not_taken(repo, f"status {status}{said}")
    return UnavailableError(
        f"the Hub answered with status {status}{said}",
        reason="HUB_FAILED",
        remedy=_AGAIN,
    )


def _said(error: HfHubHTTPError) -> str:
    words = " ".join((error.server_message or "").split())
    return f": {words[:_SAID]}" if words else ""


def _forbidden(message: str, *, remedy: str) -> PermissionDeniedError:
    return PermissionDeniedError(message, reason="HUB_FORBIDDEN", field="repo", remedy=remedy)


def _missing(message: str, remedy: str) -> NotFoundError:
    return NotFoundError(message, reason="HUB_NOT_FOUND", field="repo", remedy=remedy)


def _refused_token(message: str) -> UnauthenticatedError:
    return UnauthenticatedError(
        message, reason="HUB_TOKEN_REFUSED", field="token_file", remedy=_TOKEN_REMEDY
    )


def _conflict(message: str) -> PreconditionError:
    return PreconditionError(message, reason="HUB_CONFLICT", field="repo", remedy=_AGAIN)


def _not_taken(repo: str, why: str) -> PreconditionError:
    return PreconditionError(
        f"the Hub does not take this for {repo}: {' '.join(why.split())[:_SAID]}",
        reason="HUB_REFUSED",
        field="repo",
        remedy="change what it names, then repeat the command",
    )


def _unreachable(why: str) -> UnavailableError:
    return UnavailableError(
        f"the Hub cannot be reached: {' '.join(why.split())[:_SAID]}",
        reason="HUB_UNREACHABLE",
        remedy="look at the network, HF_ENDPOINT and HF_HUB_OFFLINE, then repeat the command: it "
        "goes on from there",
    )
