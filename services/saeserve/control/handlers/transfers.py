"""Downloads and uploads, and the end of uploads: imported, given up, or forgotten."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from saeserve.control.handlers.downloads import Downloads
from saeserve.control.handlers.quota import UploadQuota
from saeserve.control.handlers.usage import LiveUse, uploads_of
from saeserve.jobs.record import JobRecord
from saeserve.jobs.states import JobState
from saeserve.platform.auth.caller import EVERYONE, Caller
from saeserve.registry.model_uploads import ModelUploads, Upload
from saeserve.registry.refusals import in_use
from saeserve.registry.upload import UploadWriter
from saeserve.registry.upload_paths import Announced, checked_files, resource_of

log = logging.getLogger(__name__)
_SWEEP_EVERY_S = 60.0


class TransferHandlers:
    """What the calls of TransferService do, and the sweeping of uploads."""

    def __init__(
        self,
        downloads: Downloads,
        uploads: ModelUploads,
        use: LiveUse,
        quota: UploadQuota,
        expiry_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Uploads that no job uses are removed `expiry_seconds` after they were last used."""
        self.downloads = downloads
        self.uploads = uploads
        self.expiry_seconds = expiry_seconds
        self._use = use
        self._quota = quota
        self._clock = clock
        self._next_sweep = 0.0

    def create(self, files: Sequence[Announced], caller: Caller = EVERYONE) -> Upload:
        """The caller's upload of these files. Raises QuotaExceeded, or as `ModelUploads` does."""
        size = sum(max(0, file.size_bytes) for file in files)
        self._quota.check(caller, size, resource_of(checked_files(files), caller.owner))
        return self.uploads.create(files, caller.owner)

    def delete(self, resource: str, caller: Caller = EVERYONE) -> None:
        """Remove an upload. Raises FailedPrecondition while a live job reads it, NotFound for
        that of another owner."""
        self.uploads.check_owner(resource, caller)
        users = self._use.of_upload(resource)
        if users:
            raise in_use(
                f"job {users[0]} imports {resource}",
                field="upload",
                remedy="wait for that job, or cancel it first",
            )
        self.uploads.remove(resource)

    def begin(self, resource: str, name: str, caller: Caller = EVERYONE) -> UploadWriter:
        """A writer for one file of the caller's upload. Raises as `ModelUploads.begin`."""
        self.uploads.check_owner(resource, caller)
        return self.uploads.begin(resource, name)

    def ended(self, record: JobRecord) -> None:
        """Remove the uploads of a job that has imported them, unless another wants them too.

        Those of a failed import stay until they expire: the next try may need another format only.
        """
        if record.state is not JobState.SUCCEEDED:
            return
        for resource in uploads_of(record.submission):
            # Whoever announced the same files after this job was submitted has yet to use them.
            wanted = self.uploads.last_used(resource) > record.submission.created
            if not wanted and not self._use.of_upload(resource):
                log.info("%s is imported by job %s and removed", resource, record.id)
                self.uploads.remove(resource)

    def sweep(self) -> None:
        """Remove expired uploads; does something once a minute. Raises IndexUnavailable."""
        now = self._clock()
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_EVERY_S
        for resource in self.uploads.resources():
            expired = self.uploads.last_used(resource) + self.expiry_seconds < now
            if expired and not self._use.of_upload(resource):
                log.info("%s has expired and is removed", resource)
                self.uploads.remove(resource)
