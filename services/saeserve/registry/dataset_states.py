"""What state a data set is in: by its own files, else by the result of the job that makes it."""

from __future__ import annotations

from saeserve.core.formats.manifest import DatasetManifest
from saeserve.platform.store import ArtifactStore
from saeserve.registry.dataset import Created, Failed, dataset_key
from saeserve.registry.making import DatasetMaking
from saeserve.registry.outcomes import Outcome, outcome_of
from saeserve.registry.stored import read_stored

CREATED, MANIFEST, FAILED = "created.json", "manifest.json", "failed.json"


class DatasetStates:
    """Reads states, and writes them down once a result has decided."""

    def __init__(self, store: ArtifactStore, making: DatasetMaking) -> None:
        self._store = store
        self._making = making

    def manifest(self, name: str) -> DatasetManifest | None:
        """Manifest of a READY data set; one that a result names is published first."""
        data = self._store.read(dataset_key(name, MANIFEST))
        if data is None:
            data = self._made(name)
        return None if data is None else DatasetManifest.from_bytes(data)

    def failure(self, name: str) -> str:
        """Why a data set without manifest is FAILED; "" while it is PENDING."""
        failed = read_stored(self._store, dataset_key(name, FAILED), Failed)
        if failed is not None:
            return failed.message
        job = self._making.maker(name)
        outcome = outcome_of(self._store, job) if job else None
        return outcome.why(job) if outcome and self._given_up(name, outcome) else ""

    def fail(self, name: str, message: str) -> None:
        """Make a data set without manifest FAILED, for good; the first message stays."""
        if self.manifest(name) is None:
            data = Failed(message=message or "no reason was given").model_dump_json().encode()
            self._store.put_if_absent(dataset_key(name, FAILED), data)

    def settle(self, name: str, job: str) -> None:
        """Let the data set follow the result of `job`; does nothing when another makes it.

        READY when the result names it. Else the job's work goes, and the data set is FAILED,
        unless it waits with its files for another ingest because this one was cancelled.
        """
        outcome = outcome_of(self._store, job)
        # An ingest that ended before its first attempt began has not taken the maker's place.
        if outcome is None or self._making.maker(name) not in ("", job):
            return
        if self.manifest(name) is not None:
            return
        self._making.clear(name, job)
        if self._given_up(name, outcome):
            self.fail(name, outcome.why(job))

    def _made(self, name: str) -> bytes | None:
        """The manifest that a result has named before anybody applied it."""
        job = self._making.maker(name)
        outcome = outcome_of(self._store, job) if job else None
        if outcome is None or not outcome.names_dataset(name):
            return None
        self._making.publish(name, job, outcome.epoch)
        return self._store.read(dataset_key(name, MANIFEST))

    def _given_up(self, name: str, outcome: Outcome) -> bool:
        """Whether the data set has FAILED with its maker: uploads survive a cancelled ingest."""
        reserved = read_stored(self._store, dataset_key(name, CREATED), Created)
        harvested = reserved is not None and bool(reserved.job)
        return outcome.state == "FAILED" or (harvested and outcome.state == "CANCELLED")
