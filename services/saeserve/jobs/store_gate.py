"""Admits the artifact store against what the index knows, and marks it at its first use."""

from __future__ import annotations

import logging
import threading

from saeserve.errors import Unavailable
from saeserve.jobs.layout import job_key
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.platform.store import ArtifactStore
from saeserve.platform.store_proof import MARKER, Marker, StoreProof, has_contents, read_marker

_log = logging.getLogger("saeserve.jobs.store")


class StoreGate(StoreProof):
    """The proof of control and worker. `admit` asks the index; calling it reads the store alone.

    | the folder                | the index knows no job | it knows jobs                          |
    |---------------------------|------------------------|----------------------------------------|
    | empty                     | set up as a new store  | Unavailable                            |
    | contents, no marker       | marked                 | marked if it holds one of them or no   |
    |                           |                        | store was recorded; else Unavailable   |
    | marker as recorded        | admitted               | admitted                               |
    | marker, none recorded     | recorded               | recorded if it holds one of them       |
    | another marker            | recorded               | Unavailable                            |
    """

    def __init__(self, store: ArtifactStore, index: JobIndex) -> None:
        super().__init__(store.root)
        self._store = ArtifactStore(store.root)  # without the proof that is made here
        self._index = index
        self._refused: Unavailable | None = None
        self._admitted = False
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Raise Unavailable unless this is the store, as far as is known without the index."""
        if (refused := self._refused) is not None:
            raise Unavailable(refused.message, code=refused.code, remedy=refused.remedy)
        super().__call__()

    def admit(self) -> None:
        """Decide by the index; cheap once it has admitted the store.

        Raises Unavailable (STORE_UNAVAILABLE), and IndexUnavailable when the index cannot tell.
        """
        with self._lock:
            try:
                self._admit(read_marker(self.root), self._index.store())
            except IndexUnavailable:
                raise
            except Unavailable as error:
                self._refused = error
                raise
            self._admitted, self._refused = True, None

    def _admit(self, marker: str | None, recorded: str | None) -> None:
        if self._admitted and marker != self._id:
            raise self.missing() if marker is None else self.another(marker, self._id)
        if marker is not None and marker == recorded:
            self._id = marker
            return
        jobs = self._index.ids()
        if jobs and not self._belongs(marker, recorded, jobs):
            raise self.missing() if marker is None else self.another(marker, recorded or "known")
        self._id = marker or self._mark(recorded or "")
        self._index.set_store(self._id)

    def _belongs(self, marker: str | None, recorded: str | None, jobs: list[str]) -> bool:
        """Whether a store that the index does not know by its marker may hold its `jobs`."""
        if marker is None and recorded is None:
            return has_contents(self.root)
        if marker is not None and recorded is not None:
            return False
        return any(self._store.exists(job_key(job, "job.json")) for job in jobs)

    def _mark(self, id: str) -> str:
        """Mark the store, once; the id that stands then."""
        found = has_contents(self.root)
        kind = "had no marker and is marked" if found else "is set up"
        # A volume that comes back over what is set up here must not bear the same id.
        made = Marker.new(id if found else "")
        if self._store.put_if_absent(MARKER, made.model_dump_json(indent=1).encode()):
            _log.warning("the artifact store %s %s: %s", self.root, kind, made.id)
        return read_marker(self.root) or made.id
