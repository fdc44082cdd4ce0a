"""Data sets: made PENDING, then READY by a manifest or FAILED by a reason, each committed once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from saeserve.core.formats.manifest import DatasetManifest
from saeserve.errors import FailedPrecondition
from saeserve.platform.store import ArtifactStore
from saeserve.registry.dataset import (
    Created,
    Dataset,
    DatasetFile,
    DatasetState,
    UploadHeader,
    dataset_key,
)
from saeserve.registry.dataset_errors import (
    has_failed,
    in_use,
    incomplete,
    no_dataset,
    not_ready,
    other_manifest,
    taken,
    takes_no_files,
)
from saeserve.registry.dataset_files import DatasetFiles
from saeserve.registry.dataset_states import CREATED, MANIFEST, DatasetStates
from saeserve.registry.making import DatasetMaking
from saeserve.registry.names import checked_file_name, checked_name
from saeserve.registry.refusals import no_upload
from saeserve.registry.roots import Roots
from saeserve.registry.stored import read_stored
from saeserve.registry.upload import UploadWriter


class DatasetRegistry:
    """Data sets below datasets/<name>/; `roots` are where registered files may lie."""

    def __init__(
        self, store: ArtifactStore, roots: Roots, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._files = DatasetFiles(store, roots)
        self._clock = clock
        self.making = DatasetMaking(store)
        self._states = DatasetStates(store, self.making)

    def names(self) -> list[str]:
        """Names of all data sets, sorted."""
        names = self._store.names("datasets")
        return [name for name in names if self._store.exists(dataset_key(name, CREATED))]

    def exists(self, name: str) -> bool:
        """Whether a data set of this name was made, in whatever state."""
        return self._store.exists(dataset_key(checked_name(name, "dataset"), CREATED))

    def get(self, name: str, field: str = "dataset") -> Dataset:
        """The data set. Raises NotFound, DamagedError for a document that cannot be read."""
        created = read_stored(self._store, dataset_key(checked_name(name, field), CREATED), Created)
        if created is None:
            raise no_dataset(name, field)
        manifest = self._states.manifest(name)
        failure = "" if manifest else self._states.failure(name)
        pending = DatasetState.FAILED if failure else DatasetState.PENDING
        return Dataset(
            name=name,
            state=DatasetState.READY if manifest else pending,
            folder=self._store.path(dataset_key(name)),
            job=created.job,
            created=created.created,
            failure=failure,
            manifest=manifest,
            files=() if manifest else tuple(self._all_files(name)),
        )

    def manifest(self, name: str, field: str = "dataset") -> DatasetManifest:
        """Manifest of a READY data set. Raises NotFound, FailedPrecondition when not READY."""
        found = self.get(name, field)
        if found.manifest is None:
            raise not_ready(found, field)
        return found.manifest

    def create(self, name: str, job: str = "") -> Dataset:
        """Make a PENDING data set that `job` fills; the same job may call again.

        Raises Conflict when the name is taken by anything else.
        """
        checked_name(name, "dataset")
        created = Created(job=job, created=self._clock())
        self._store.put_if_absent(dataset_key(name, CREATED), created.model_dump_json().encode())
        found = self.get(name)
        if found.job != job:
            raise taken(name, found.job)
        return found

    def commit(self, name: str, manifest: bytes) -> None:
        """Make a data set READY; the same bytes may come again. Uploads, adopted now, go.

        Raises FormatError for bytes that are not a manifest, Conflict when it is READY with another
        manifest, FailedPrecondition when it has FAILED.
        """
        DatasetManifest.from_bytes(manifest)
        found = self.get(name)
        if found.state is DatasetState.FAILED:
            raise has_failed(name, found.failure)
        key = dataset_key(name, MANIFEST)
        if not self._store.put_if_absent(key, manifest) and self._store.read(key) != manifest:
            raise other_manifest(name)
        self._store.remove(dataset_key(name, "incoming"))

    def begin(self, name: str, job: str, epoch: int) -> Path:
        """The folder in which attempt `epoch` of `job` makes the data set; see `DatasetMaking`.

        Raises NotFound, FailedPrecondition when it has FAILED, and Conflict when it is READY or
        another job makes it.
        """
        found = self.get(name)
        if found.state is DatasetState.FAILED:
            raise has_failed(name, found.failure)
        if found.manifest is not None:
            raise taken(name, found.manifest.job)
        return self.making.begin(name, job, epoch)

    def settle(self, name: str, job: str) -> None:
        """Let the data set, if there is one, follow the result of `job`; see `DatasetStates`."""
        if self.exists(name):
            self._states.settle(name, job)

    def fail(self, name: str, message: str) -> None:
        """Make a PENDING data set FAILED, for good; one that is READY or FAILED stays so."""
        self.get(name)
        self._states.fail(name, message)

    def delete(self, name: str, users: Sequence[str] = (), *, force: bool = False) -> None:
        """Delete a data set and all its files. Raises NotFound, and FailedPrecondition naming
        `users` (ids of live jobs) unless forced."""
        if not self.exists(name):
            raise no_dataset(name, "name")
        if users and not force:
            raise in_use(name, list(users))
        self._store.remove(dataset_key(name))

    def register(self, name: str, files: Sequence[str]) -> Dataset:
        """Make a PENDING data set of `files`, each as root:relative; the same call may come again.

        Raises InvalidInput, NotFound (a file is not there) and Conflict (the name is taken).
        """
        checked_name(name, "dataset")
        self._files.check_registration(tuple(files))
        if self.exists(name) and self._files.registered(name) is None:
            raise taken(name, self.get(name).job)
        self._files.register(name, tuple(files))
        return self.create(name)

    def begin_upload(self, header: UploadHeader) -> UploadWriter:
        """Make the PENDING data set when it is new, and a writer for one file of it.

        Raises as `DatasetFiles.begin_upload`, and Conflict or FailedPrecondition when the data
        set takes no files.
        """
        checked_name(header.dataset, "header.dataset")
        checked_file_name(header.file_name, "header.file_name")
        if self.exists(header.dataset):
            self._check_takes_files(self.get(header.dataset))
        writer = self._files.begin_upload(header)
        self.create(header.dataset)
        return writer

    def upload(self, name: str, file_name: str) -> DatasetFile:
        """How far an upload is. Raises NotFound when it never began."""
        self.get(name)
        found = self._files.upload(name, checked_file_name(file_name, "file_name"))
        if found is None:
            raise no_upload(
                f"no upload of {file_name} to data set {name} has begun",
                field="file_name",
                remedy="begin it with UploadDataset",
            )
        return found

    def uploaded(self, name: str) -> list[DatasetFile]:
        """Files that were uploaded to a data set and not yet ingested, complete or not."""
        return self._files.uploaded(name)

    def paths(self, name: str) -> list[Path]:
        """Every file to ingest, by name. Raises FailedPrecondition when one is missing or
        incomplete, or when there is none."""
        files = self._all_files(name)
        for file in files:
            if not file.complete:
                raise incomplete(name, file)
        if not files:
            raise FailedPrecondition(
                f"data set {name} has no files",
                code="NO_FILES",
                remedy="upload or register files before ingesting",
            )
        return sorted(file.path for file in files)

    def _all_files(self, name: str) -> list[DatasetFile]:
        return [*self._files.uploaded(name), *self._files.linked(name)]

    def _check_takes_files(self, found: Dataset) -> None:
        if found.job or self._files.registered(found.name) is not None:
            raise taken(found.name, found.job)
        if found.state is not DatasetState.PENDING:
            raise takes_no_files(found)
