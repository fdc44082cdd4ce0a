"""Which files of the store a download may read: those of the one resource that it names."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from saeserve.control.handlers.catalog import checked_job_id
from saeserve.control.handlers.ownership import check_seen
from saeserve.errors import NotFound
from saeserve.jobs import documents
from saeserve.jobs.checkpoints import MANIFEST, Checkpoint, CheckpointManifest, chain
from saeserve.jobs.curves_kept import curves_epoch
from saeserve.jobs.layout import checkpoint_key, curves_key
from saeserve.jobs.ledger import Ledger
from saeserve.platform.auth.caller import EVERYONE, Caller
from saeserve.registry.models import ModelRegistry
from saeserve.registry.names import checked_name
from saeserve.registry.refusals import bad_resource, no_file
from saeserve.registry.version import MANIFEST as VERSION_MANIFEST
from saeserve.registry.version import read_manifest

_EXPORT = re.compile(r"exports/([^/]+)/([1-9][0-9]{0,8})/([a-z0-9_]{1,64})")
_CHECKPOINT = re.compile(r"jobs/([^/]+)/attempts/([1-9][0-9]{0,8})/checkpoints/([0-9]{1,18})")
_CHAIN = re.compile(r"jobs/([^/]+)/checkpoints(?:/([0-9]{1,18}))?")
_CURVES = re.compile(r"jobs/([^/]+)/(?:attempts/([1-9][0-9]{0,8})/)?metrics")
_LOGS = re.compile(r"jobs/([^/]+)/logs")
_LOG_FILE = re.compile(r"((events|worker)\.jsonl|log\.txt(\.[0-9])?)")


@dataclass(frozen=True)
class StoredFile:
    """One file of a resource. `sha256` is empty where the store has none on record."""

    name: str
    path: Path
    size: int
    etag: str
    sha256: str


@dataclass(frozen=True)
class Listing:
    """What a resource means now, and its files by name."""

    resource: str
    files: dict[str, StoredFile]

    def file(self, name: str) -> StoredFile:
        """Raises NotFound for a name that is not listed."""
        found = self.files.get(name)
        if found is None:
            raise no_file(
                f"{self.resource} has no file {name!r}",
                field="name",
                remedy="use a name that ListFiles gives; files may have gone since",
            )
        return found


class Resources:
    """Resolves resources to files; every path is made here, of parts that were checked."""

    def __init__(self, ledger: Ledger, models: ModelRegistry) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._models = models
        self._forms: tuple[tuple[re.Pattern[str], Callable[..., Listing]], ...] = (
            (_EXPORT, self._export),
            (_CHECKPOINT, self._checkpoint),
            (_CHAIN, self._in_chain),
            (_LOGS, self._logs),
            (_CURVES, self._curves),
        )

    def listing(self, resource: str, caller: Caller = EVERYONE) -> Listing:
        """The files of `resource`. Raises InvalidInput for what names none, NotFound, as for the
        job of another owner."""
        for pattern, find in self._forms:
            if match := pattern.fullmatch(resource):
                if resource.startswith("jobs/"):
                    job = checked_job_id(match[1], "resource")
                    check_seen(caller, self._ledger.submission(job))
                return find(*match.groups())
        if resource.startswith(("jobs/", "exports/")):
            raise bad_resource(
                f"{resource!r} names nothing that can be downloaded",
                field="resource",
                remedy="write jobs/<id>/logs, jobs/<id>/metrics, jobs/<id>/checkpoints or "
                "exports/<name>/<n>/<format>",
            )
        return self._model(resource)

    def _model(self, reference: str) -> Listing:
        version = self._models.resolve(reference, "resource")
        manifest = (version.folder / VERSION_MANIFEST).read_bytes()
        known = read_manifest(manifest, f"{version.resource}/{VERSION_MANIFEST}").files
        hashes = {name: file.sha256 for name, file in known.items()}
        return self._folder(version.resource, version.folder, hashes)

    def _export(self, name: str, version: str, form: str) -> Listing:
        checked_name(name, "resource")
        resource = f"exports/{name}/{version}/{form}"
        folder = self._store.path(resource)
        if not folder.is_dir():
            raise NotFound(
                f"{name}@{version} is not exported as {form}",
                code="EXPORT_NOT_FOUND",
                field="resource",
                remedy=f"run: saeserve models export {name}@{version} --format {form}",
            )
        return self._folder(resource, folder, {})

    def _in_chain(self, job: str, step: str | None) -> Listing:
        for point in chain(self._store, job):
            if step is None or point.step == int(step):
                return self._of_checkpoint(point)
        raise _no_checkpoint(job, step)

    def _checkpoint(self, job: str, epoch: str, step: str) -> Listing:
        return self._of_checkpoint(
            Checkpoint(checkpoint_key(job, int(epoch), int(step)), int(step))
        )

    def _of_checkpoint(self, point: Checkpoint) -> Listing:
        manifest = documents.read(self._store, f"{point.key}/{MANIFEST}", CheckpointManifest)
        if manifest is None:
            raise _no_checkpoint(point.key.split("/")[1], str(point.step))
        hashes = {name: entry.sha256 for name, entry in manifest.files.items()}
        return self._folder(point.key, self._store.path(point.key), hashes)

    def _logs(self, job: str) -> Listing:
        folder = self._store.path(f"jobs/{job}/attempts")
        files = {
            file.name: file
            for path in _regular_files(folder)
            if len(path.relative_to(folder).parts) == 2 and _LOG_FILE.fullmatch(path.name)
            for file in [_stored(f"jobs/{job}/logs", folder, path, "", grows=True)]
        }
        return Listing(f"jobs/{job}/logs", files)

    def _curves(self, job: str, epoch: str | None) -> Listing:
        """Curves of one attempt; without one, of that which the result names, or else the last."""
        kept = int(epoch) if epoch else curves_epoch(self._ledger, job)
        key = curves_key(job, kept)
        if not kept or not self._store.exists(key):
            raise _no_curves(job)
        return self._folder(key, self._store.path(key), {})

    def _folder(self, resource: str, folder: Path, hashes: dict[str, str]) -> Listing:
        files = (
            _stored(resource, folder, path, hashes.get(path.relative_to(folder).as_posix(), ""))
            for path in _regular_files(folder)
        )
        return Listing(resource, {file.name: file for file in files})


def _regular_files(folder: Path) -> Iterator[Path]:
    """Files below `folder`, sorted; links and hidden names are passed over."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent) / name
            if not name.startswith(".") and stat.S_ISREG(path.lstat().st_mode):
                yield path


def _stored(
    resource: str, folder: Path, path: Path, sha256: str, *, grows: bool = False
) -> StoredFile:
    """A file as it is now; one on record is known by its hash, another by its inode and time."""
    seen = path.lstat()
    name = path.relative_to(folder).as_posix()
    changing = () if grows else (seen.st_size, seen.st_mtime_ns)
    identity = sha256 or repr((seen.st_dev, seen.st_ino, *changing))
    etag = hashlib.sha256(f"{resource}\0{name}\0{identity}".encode()).hexdigest()[:32]
    return StoredFile(name, path, seen.st_size, etag, sha256)


def _no_curves(job: str) -> NotFound:
    return NotFound(
        f"job {job} has no curves: training jobs have them once an attempt has ended",
        code="CURVES_NOT_FOUND",
        field="resource",
        remedy=f"wait for its end; what it has reported is in jobs/{job}/logs",
    )


def _no_checkpoint(job: str, step: str | None) -> NotFound:
    which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    return NotFound(
        f"job {job} has {which}; a job keeps its newest ones only",
        code="CHECKPOINT_NOT_FOUND",
        field="resource",
        remedy=f"ask for jobs/{job}/checkpoints, the newest one, once there is one",
    )
