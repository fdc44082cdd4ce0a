"""The control service's handlers over fakes, with the store and the registries in reach."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.jobs import CountingDoorbell
from tests.fakes.memory_index import MemoryIndex
from tests.fakes.registry import manifest_of, write_export

from saeserve.control.handlers.order import JobOrder
from saeserve.control.parts import Parts, make_parts
from saeserve.control.settings import ControlSettings
from saeserve.core.planning.plan import Plan
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Failure, JobRecord, Lease, Output, Result
from saeserve.jobs.states import JobState
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.models import ModelRegistry
from saeserve.registry.roots import Roots

TRAIN: dict[str, Any] = {
    "dataset": "acts",
    "model": "sae",
    "topk": {"k": 2},
    "d_sae": 8,
    "tokens": 4096,
    "batch_size": 2048,
}


@dataclass
class Bench:
    """The handlers over an index, a doorbell and a store that tests can look into."""

    parts: Parts
    index: MemoryIndex
    doorbell: CountingDoorbell
    store: ArtifactStore
    datasets: DatasetRegistry
    models: ModelRegistry
    root: Path
    folder: Path

    @property
    def ledger(self) -> Ledger:
        return self.parts.ledger

    def submit(self, spec: dict[str, Any], **changes: Any) -> JobRecord:  # noqa: ANN401 - any field
        return self.plan(spec, **changes)[0]

    def plan(self, spec: dict[str, Any], **changes: Any) -> tuple[JobRecord, Plan]:  # noqa: ANN401 - any field
        return self.parts.jobs.submitter.submit(JobOrder(spec=spec, **changes))

    def train(self, **changes: Any) -> JobRecord:  # noqa: ANN401 - any field
        return self.submit({"train": TRAIN | changes})

    def ready(self, name: str = "acts", **changes: Any) -> None:  # noqa: ANN401 - any field
        self.datasets.create(name)
        self.datasets.commit(name, manifest_of(name, **changes).to_bytes())

    def publish(self, name: str = "sae", job: str = "j-made", **changes: Any) -> str:  # noqa: ANN401 - any field
        export = write_export(self.folder / "export", **changes)
        return self.models.publish(name, job, 0, export)

    def start(self, job: str) -> Lease:
        """Let a worker take the job and begin its first attempt."""
        taken = self.index.acquire("cpu", f"worker-{job}", 30.0)
        assert taken is not None
        assert taken.id == job
        claim = self.ledger.claim(job, taken.owner_id, 2000.0)
        lease = Lease(job=job, epoch=claim.epoch, owner=taken.owner_id)
        assert self.index.start(lease, charged=True)
        return lease

    def end(
        self, job: str, state: JobState, failure: Failure | None = None, model: str = ""
    ) -> None:
        """Commit and tell a result, which names the version `model` if there is one."""
        outputs = (Output(model=model),) if model else ()
        result = Result(
            job=job, epoch=1, state=state, outputs=outputs, failure=failure, time=3000.0
        )
        self.ledger.finish(result)
        self.index.finish(job, 1, state, outputs, failure)


def make_bench(folder: Path) -> Bench:
    store = ArtifactStore(folder / "store")
    store.check()
    root = folder / "root"
    root.mkdir()
    folders = {"files": root, "far": folder / "not-mounted"}
    settings = ControlSettings(store=store.root, roots=folders)
    index, doorbell, roots = MemoryIndex(), CountingDoorbell(), Roots(folders)
    return Bench(
        parts=make_parts(settings, store, index, doorbell),
        index=index,
        doorbell=doorbell,
        store=store,
        datasets=DatasetRegistry(store, roots),
        models=ModelRegistry(store),
        root=root,
        folder=folder,
    )
