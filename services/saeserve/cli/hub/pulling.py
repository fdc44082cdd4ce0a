"""From a repository of the Hub into a deployment: the files, checked, as an upload to import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from saeserve.cli.hub.layouts import OURS, Layout, layout_of
from saeserve.cli.hub.refusals import damaged, hub_errors
from saeserve.cli.model_files import sent_beside
from saeserve.cli.refusals import refused
from saeserve.cli.transferring import shown
from saeserve.client import Client
from saeserve.client.errors import AlreadyExistsError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Source:
    """Which files of the Hub are meant."""

    repo: str
    revision: str | None = None
    folder: str = ""
    format: str | None = None


def pull(client: Client, hub: HfApi, source: Source, name: str) -> dict[str, Any]:
    """Bring the files into the deployment; `path` and `format` of the import_model job that
    publishes them as `name`.

    Raises AlreadyExistsError where that name is taken, PreconditionError for a repository that
    holds no SAE in a known format, DataLossError for files whose bytes are not those that the Hub
    or the model's manifest says, and ClientError for what else the Hub refuses.
    """
    _check_free(client, name)
    with hub_errors(source.repo):
        commit, hashes = _listed(hub, source)
    layout = layout_of(hashes, source.folder, source.format, source.repo)
    with hub_errors(source.repo):
        local = _fetched(hub, source, layout, commit)
    _check_bytes(local, layout, hashes, source.repo)
    items, path = _named(local, source, layout)
    with shown() as progress:
        upload = client.transfers.upload(items, progress)
    return {"path": f"{upload}/{path}", "format": layout.format}


def checked_folder(text: str) -> str:
    """A folder or file of a repository. Raises InvalidArgumentError for what leaves it."""
    parts = text.strip("/").split("/") if text.strip("/") else []
    if any(part in ("", ".", "..") for part in parts) or "\\" in text:
        raise refused(
            f"{text!r} is not a folder of a repository", field="path", remedy="write it as a/b"
        )
    return "/".join(parts)


def _check_free(client: Client, name: str) -> None:
    found = next(iter(client.models.list(name)), None)
    if found is not None:
        raise AlreadyExistsError(
            f"there is a model {name} already: {found.resource}",
            reason="MODEL_EXISTS",
            field="model",
            remedy="choose another name, or delete its versions first",
        )


def _listed(hub: HfApi, source: Source) -> tuple[str, dict[str, str]]:
    """The commit, and its files with their sha256 (empty for those that git itself holds)."""
    from huggingface_hub.hf_api import RepoFile

    info = hub.model_info(source.repo, revision=source.revision)
    commit = info.sha or ""
    entries = hub.list_repo_tree(source.repo, recursive=True, revision=commit)
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return commit, {file.path: file.lfs.sha256 if file.lfs else "" for file in files}


def _fetched(hub: HfApi, source: Source, layout: Layout, commit: str) -> Path:
    """The Hub's cache of that commit, with the files in it."""
    above = _run_configs(layout) if layout.format == "sparsify" else ()
    wanted = [_literal(name) for name in (*layout.names, *above)]
    found = hub.snapshot_download(  # pyright: ignore[reportUnknownMemberType] - its bars' class
        source.repo, revision=commit, allow_patterns=wanted
    )
    return Path(found)


def _run_configs(layout: Layout) -> Iterator[str]:
    """Where the config of sparsify's run may lie: a level or two above the model."""
    parts = layout.names[0].split("/")[:-1]
    for levels in (1, 2):
        if len(parts) >= levels:
            yield "/".join((*parts[:-levels], "config.json"))


def _literal(name: str) -> str:
    """A pattern that only this name fits."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def _check_bytes(folder: Path, layout: Layout, hashes: Mapping[str, str], repo: str) -> None:
    for name in layout.names:
        found = folder / name
        if hashes[name] and _sha256(found) != hashes[name]:
            found.resolve().unlink(missing_ok=True)
            raise damaged(
                name, repo, "the Hub", "repeat the command: what had arrived here is removed"
            )
    if layout.format == OURS:
        _check_manifest(folder, layout, repo)


def _check_manifest(folder: Path, layout: Layout, repo: str) -> None:
    """What the deployment that published the model said of its files. Whatever is wrong with the
    manifest itself, the import says."""
    names = {Path(name).name: folder / name for name in layout.names}
    try:
        listed = cast("dict[str, Any]", json.loads(names[_MANIFEST].read_bytes()))["files"]
        known = {name: str(listed[name]["sha256"]) for name in names if name in listed}
    except (ValueError, KeyError, TypeError):
        return
    for name, expected in known.items():
        if _sha256(names[name]) != expected:
            raise damaged(
                name,
                repo,
                f"its {_MANIFEST}",
                "push the model again, or name an earlier commit: owner/name@commit",
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(folder: Path, source: Source, layout: Layout) -> tuple[dict[str, Path], str]:
    """Files by their names in the upload, and the model's own there. Releases write layer and place
    into the names of repository and folders, which therefore lead to it."""
    top = f"model/{source.repo.partition('/')[2]}"
    items = {f"{top}/{name}": folder / name for name in layout.names}
    path = f"{top}/{source.folder}" if source.folder else top
    if layout.format == "sparsify":
        items |= sent_beside(folder / source.folder, path) if source.folder else {}
    return items, path
