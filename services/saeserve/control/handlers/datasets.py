"""Data sets: looking, uploading, registering, deleting."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.control.handlers.quota import UploadQuota
from saeserve.control.handlers.usage import LiveUse
from saeserve.errors import DamagedError, NotFound
from saeserve.platform.auth.caller import EVERYONE, Caller
from saeserve.registry.dataset import Dataset, DatasetFile, UploadHeader, unreadable
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.names import checked_name
from saeserve.registry.owners import Owners
from saeserve.registry.refusals import in_use
from saeserve.registry.upload import UploadWriter


class DatasetHandlers:
    """What the calls of DatasetService do."""

    def __init__(
        self, datasets: DatasetRegistry, use: LiveUse, owners: Owners, quota: UploadQuota
    ) -> None:
        self._datasets = datasets
        self._quota = quota
        self._owners = owners
        self._use = use

    def get(self, name: str) -> Dataset:
        """The data set. Raises InvalidInput, NotFound."""
        return self._datasets.get(name, "name")

    def page(self, size: int, after: str) -> tuple[list[Dataset], str]:
        """Data sets by name, and the name that the next page comes after."""
        names = [name for name in self._datasets.names() if name > after]
        found = [each for name in names[:size] if (each := self._find(name))]
        return found, names[size - 1] if len(names) > size else ""

    def register(self, name: str, files: Sequence[str], caller: Caller = EVERYONE) -> Dataset:
        """Make a PENDING data set of files below roots.

        This and what follows raise PermissionDenied for a data set of another owner.
        """
        self._claim(name, caller, "dataset")
        return self._datasets.register(name, files)

    def delete(self, name: str, caller: Caller = EVERYONE, *, force: bool) -> None:
        """Delete, unless a live job uses it and `force` is not set."""
        self._owners.check("datasets", checked_name(name, "name"), caller, "name")
        users = [] if force else self._use.of_dataset(checked_name(name, "name"))
        self._datasets.delete(name, users, force=force)

    def begin_upload(self, header: UploadHeader, caller: Caller = EVERYONE) -> UploadWriter:
        """A writer for one file. Raises as the registry, and FailedPrecondition while a job
        ingests the data set."""
        self._claim(header.dataset, caller, "header.dataset")
        self._quota.check(caller, header.size_bytes, header.dataset, header.file_name)
        writer = self._datasets.begin_upload(header)
        busy = self._use.ingesting(header.dataset)
        if busy:
            raise in_use(
                f"job {busy[0]} ingests data set {header.dataset}",
                field="header.dataset",
                remedy="wait for that job; it takes the files that were there at its start",
            )
        return writer

    def upload(self, name: str, file_name: str, caller: Caller = EVERYONE) -> DatasetFile:
        """How far an upload is. Raises InvalidInput, NotFound."""
        self._owners.check("datasets", checked_name(name, "dataset"), caller, "dataset")
        return self._datasets.upload(name, file_name)

    def _claim(self, name: str, caller: Caller, field: str) -> None:
        """A new name becomes the caller's."""
        self._owners.claim("datasets", checked_name(name, field), caller.owner, caller, field)

    def _find(self, name: str) -> Dataset | None:
        """None when it was deleted since its name was read; one that cannot be read is listed as
        FAILED, so that it neither hides nor spoils the listing."""
        try:
            return self._datasets.get(name)
        except NotFound:
            return None
        except DamagedError as error:
            return unreadable(name, error.message)
