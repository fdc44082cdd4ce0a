"""How a job makes a data set: each attempt in a folder of its own, adopted once a result names it.

An attempt that was superseded may go on for a while. Nothing that it writes or removes in its own
folder, `work/<job>/<epoch>` of the data set, can be seen by its successor or by a reader.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from saeserve.core.durable import make_folders, sync, temporary_beside
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.errors import FailedPrecondition
from saeserve.platform.store import ArtifactStore
from saeserve.registry.dataset import Created, Maker, dataset_key
from saeserve.registry.outcomes import is_live
from saeserve.registry.refusals import in_use
from saeserve.registry.stored import read_stored

_MANIFEST = "manifest.json"
_SHARDS = "shards"
_CARRIED = ("harvest.json",)
"""Files next to the shards without which an interrupted attempt cannot be continued."""


class DatasetMaking:
    """Work folders of data sets, and the one job that may make each of them."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def maker(self, name: str) -> str:
        """The job that makes the data set; "" while none has begun."""
        created = read_stored(self._store, dataset_key(name, "created.json"), Created)
        if created is None or created.job:
            return created.job if created else ""
        return self._latest(name)[1]

    def begin(self, name: str, job: str, epoch: int) -> Path:
        """The folder in which attempt `epoch` of `job` makes the data set.

        It holds what the attempt before had written whole. Raises Conflict while another job
        that has not ended makes the data set.
        """
        self._claim(name, job)
        folder = self._store.path(_work(name, job, epoch))
        self._store.remove(_work(name, job, epoch))
        make_folders(folder)
        for source in self._earlier(name, job, epoch):
            if _carry(source, folder):
                break
        return folder

    def offered(self, name: str, job: str, epoch: int) -> bytes | None:
        """The manifest that the attempt, or one before it, has completed."""
        return self._store.read(f"{_work(name, job, epoch)}/{_MANIFEST}")

    def offer(self, name: str, job: str, epoch: int, manifest: bytes) -> None:
        """Complete the attempt's folder; the data set is READY once the job's result names it.

        Raises FailedPrecondition when the data set was deleted meanwhile.
        """
        if self.maker(name) != job:
            raise FailedPrecondition(
                f"data set {name} was deleted while job {job} made it",
                code="DATASET_DELETED",
                remedy="upload or harvest it again, under a new job",
            )
        self._store.put_if_absent(f"{_work(name, job, epoch)}/{_MANIFEST}", manifest)

    def publish(self, name: str, job: str, epoch: int) -> None:
        """Make the data set READY with what attempt `epoch`, named by the job's result, offered.

        Anyone may do so, at the same time and again; without an offer nothing changes. Only then
        do the uploads and all work folders go.
        """
        work = self._store.path(_work(name, job, epoch))
        data = self.offered(name, job, epoch)
        if data is None or self.maker(name) != job:
            return
        folder = self._store.path(dataset_key(name))
        try:
            _adopt(work, folder, DatasetManifest.from_bytes(data))
        except FileNotFoundError:
            # Another has published it and removed the work folder.
            if not self._store.exists(dataset_key(name, _MANIFEST)):
                raise
        self._store.put_if_absent(dataset_key(name, _MANIFEST), data)
        self._sweep(name)

    def abandon(self, name: str, job: str, epoch: int) -> None:
        """Remove a superseded attempt's own folder."""
        self._store.remove(_work(name, job, epoch))

    def clear(self, name: str, job: str) -> None:
        """Remove what a job had made that ended without making the data set."""
        self._store.remove(_work(name, job))

    def _sweep(self, name: str) -> None:
        """Remove what a READY data set no longer needs; the manifest that stands decides."""
        standing = self._store.read(dataset_key(name, _MANIFEST))
        if standing is None:
            return
        kept = {Path(each.file).name for each in DatasetManifest.from_bytes(standing).files}
        for file in self._store.names(dataset_key(name, _SHARDS)):
            if file not in kept:
                self._store.remove(dataset_key(name, f"{_SHARDS}/{file}"))
        for rest in ("incoming", "work", *_CARRIED):
            self._store.remove(dataset_key(name, rest))

    def _claim(self, name: str, job: str) -> None:
        """Take the place of the data set's maker, which is free once the one before has ended."""
        while (holder := self.maker(name)) != job:
            number, latest = self._latest(name)
            if holder and (holder != latest or is_live(self._store, holder)):
                raise in_use(
                    f"job {holder} makes data set {name}",
                    field="dataset",
                    remedy="wait for that job, or cancel it",
                )
            data = Maker(job=job).model_dump_json().encode()
            self._store.put_if_absent(dataset_key(name, f"makers/{number + 1}.json"), data)

    def _latest(self, name: str) -> tuple[int, str]:
        """Number and job of the last maker; (0, "") before the first."""
        names = self._store.names(dataset_key(name, "makers"))
        number = max((int(each.removesuffix(".json")) for each in names), default=0)
        latest = read_stored(self._store, dataset_key(name, f"makers/{number}.json"), Maker)
        return number, latest.job if latest else ""

    def _earlier(self, name: str, job: str, epoch: int) -> Iterator[Path]:
        """Folders to go on from, the latest first; at last that of releases that had only one."""
        epochs = [int(each) for each in self._store.names(_work(name, job)) if each.isdigit()]
        for each in sorted(epochs, reverse=True):
            if each < epoch:
                yield self._store.path(_work(name, job, each))
        yield self._store.path(dataset_key(name))


def _work(name: str, job: str, epoch: int | None = None) -> str:
    key = dataset_key(name, f"work/{job}")
    return key if epoch is None else f"{key}/{epoch}"


def _carry(source: Path, target: Path) -> bool:
    """Link what `source` holds whole into `target`; False when it holds no shard.

    What the attempt was made from is linked all the same: no later one may use anything else.

    Files there are never changed in place, but may be removed meanwhile, by an attempt that is
    superseded and does not know it yet: what is there in order is enough.
    """
    shards = sorted((source / _SHARDS).glob("*.safetensors"))
    for name in _CARRIED:
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            os.link(source / name, target / name)
    if not shards:
        return False
    (target / _SHARDS).mkdir(exist_ok=True)
    for file in (*shards, source / _MANIFEST):
        try:
            os.link(file, target / file.relative_to(source))
        except FileNotFoundError:
            if file in shards:
                break
    return True


def _adopt(work: Path, folder: Path, manifest: DatasetManifest) -> None:
    """Link the manifest's files into the data set, over what else bears their names."""
    make_folders(folder / _SHARDS)
    for entry in manifest.files:
        source, target = work / entry.file, folder / entry.file
        with contextlib.suppress(FileExistsError):
            os.link(source, target)
            continue
        if not source.samefile(target):
            staged = temporary_beside(target)
            os.link(source, staged)
            staged.replace(target)
    sync(folder / _SHARDS)
