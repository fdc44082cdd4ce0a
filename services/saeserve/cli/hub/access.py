"""Who calls the Hub, where it is, and which repository is meant.

Endpoint, cache and token are those of the Hub's own library (HF_ENDPOINT, HF_HOME, HF_TOKEN, or
what `hf auth login` stored); a token is never taken from the command line.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve.cli.output import errors
from saeserve.cli.refusals import reading, refused
from saeserve.client.errors import UnauthenticatedError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"(?!/)(?!.*(?:\.\.|//))[\w./-]{1,200}(?<!/)", re.ASCII)
_TOKEN = re.compile(r"[!-~]+")


def hub_api(token_file: Path | None, *, needs_token: bool = False) -> HfApi:
    """The Hub, with the token in `token_file`, or else the library's own.

    Raises UnauthenticatedError where a token is needed and there is none, InvalidArgumentError for
    a file that holds none.
    """
    # It takes a third of a second, and no other command needs it.
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars, logging

    if not errors.is_terminal:
        disable_progress_bars()
    logging.set_verbosity_error()
    token = get_token() if token_file is None else _token_in(token_file)
    if needs_token and not token:
        raise UnauthenticatedError(
            "the Hub takes models from known users, and there is no token",
            reason="HUB_TOKEN_MISSING",
            field="token_file",
            remedy="run: hf auth login, set HF_TOKEN, or name a file with --token-file",
        )
    return HfApi(
        # False: the library is not to look for another one.
        token=token or False,
        library_name="saeserve",
        library_version=importlib.metadata.version("saeserve"),
    )


def repository(text: str, field: str = "repo") -> str:
    """`text` where it has the form owner/name. Raises InvalidArgumentError."""
    if not _REPO.fullmatch(text) or ".." in text or "--" in text:
        raise refused(f"{text!r} cannot name a repository", field=field, remedy="write owner/name")
    return text


def revision(text: str, field: str) -> str:
    """`text` where it may name a branch, tag or commit. Raises InvalidArgumentError."""
    if not _REVISION.fullmatch(text):
        raise refused(
            f"{text!r} cannot name a revision",
            field=field,
            remedy="write the name of a branch or tag, or a commit's hash",
        )
    return text


def _token_in(path: Path) -> str:
    """The one word in a file; errors do not show it."""
    with reading(path, "a file with the token"):
        text = path.read_text(errors="replace").strip()
    if not _TOKEN.fullmatch(text):
        raise refused(
            f"{path} does not hold one token",
            field="token_file",
            remedy="write the token to it, and nothing else",
        )
    return text
