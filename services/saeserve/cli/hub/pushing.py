"""From a deployment's store to a repository of the Hub: all files in one commit."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve.cli.cards import CARD, card_of
from saeserve.cli.hub.layouts import OURS, others_than
from saeserve.cli.hub.refusals import hub_errors, unfit
from saeserve.cli.transferring import shown
from saeserve.client import Client

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

MAIN = "main"
_CLAIM = "claim.json"
"""Says to the store of which job's output a version is; means nothing elsewhere."""


@dataclass(frozen=True)
class Wanted:
    """What goes where."""

    resource: str
    """models/<name>/versions/<n>"""
    format: str
    repo: str
    branch: str = MAIN
    public: bool = False

    @property
    def files(self) -> str:
        """The resource that has the files."""
        if self.format == OURS:
            return self.resource
        _, name, _, number = self.resource.split("/")
        return f"exports/{name}/{number}/{self.format}"


@dataclass(frozen=True)
class Pushed:
    """A push that is done: the repository, and the commit that holds the files."""

    repo: str
    branch: str
    commit: str
    url: str
    files: tuple[str, ...]


def push(client: Client, hub: HfApi, wanted: Wanted) -> Pushed:
    """Commit the files of a version or of its export, and its card with what evaluations found.

    The repository is made, private unless the caller wants it public. Raises PreconditionError for
    one that is public where that was not asked for, or that holds another format's model, and
    ClientError for whatever else the Hub or the deployment refuses. Until all has arrived nothing
    is committed; what had arrived is not sent again.
    """
    client.transfers.files(wanted.files)
    with hub_errors(wanted.repo):
        known = _repository(hub, wanted.repo)
    if known is not None:
        _check(known, wanted)
    with tempfile.TemporaryDirectory(prefix="saeserve-") as folder, shown() as progress:
        local = Path(folder) / "model"
        client.transfers.download(wanted.files, local, progress)
        card = card_of(client, wanted.resource, local)
        with hub_errors(wanted.repo):
            _prepare(hub, wanted, known)
            return _commit(hub, wanted, local, card)


def _repository(hub: HfApi, repo: str) -> ModelInfo | None:
    """What the Hub has under that name; None for nothing."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return hub.model_info(repo)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def _check(known: ModelInfo, wanted: Wanted) -> None:
    if not known.private and not wanted.public:
        raise unfit(
            f"{wanted.repo} is public, so that everybody could read the model",
            remedy="add --public if that is wanted, or name another repository",
        )
    others = others_than(wanted.format, {each.rfilename for each in known.siblings or ()})
    if others:
        raise unfit(
            f"{wanted.repo} holds a model in the format {others[0]}, which files of the format "
            f"{wanted.format} would mix with",
            remedy="name another repository",
        )


def _prepare(hub: HfApi, wanted: Wanted, known: ModelInfo | None) -> None:
    if known is None:
        hub.create_repo(wanted.repo, private=not wanted.public, exist_ok=True)
    if wanted.branch != MAIN:
        hub.create_branch(wanted.repo, branch=wanted.branch, exist_ok=True)


def _commit(hub: HfApi, wanted: Wanted, folder: Path, card: bytes | None) -> Pushed:
    from huggingface_hub import CommitOperationAdd

    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _CLAIM)
    contents = {path.relative_to(folder).as_posix(): path for path in paths}
    commit = hub.create_commit(
        wanted.repo,
        [
            CommitOperationAdd(name, card if name == CARD and card is not None else path)
            for name, path in contents.items()
        ],
        commit_message=f"Upload {wanted.resource} from saeserve ({wanted.format})",
        revision=wanted.branch,
    )
    return Pushed(wanted.repo, wanted.branch, commit.oid, commit.commit_url, tuple(contents))
