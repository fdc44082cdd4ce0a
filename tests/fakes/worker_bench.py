"""What a supervisor stands on, with an index in memory and job processes that play parts."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry
from tests.fakes.memory_index import MemoryIndex

from saeserve.jobs.errors import IndexUnavailable
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Submission
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.publication import Publication
from saeserve.registry.roots import Roots
from saeserve.worker.metrics import WorkerMetrics
from saeserve.worker.order import JobOrder
from saeserve.worker.settings import WorkerSettings
from saeserve.worker.settlement import Ending, Settlement
from saeserve.worker.supervisor import Supervisor

CHILD = Path(__file__).with_name("job_child.py")


@dataclass
class FakeDoorbell:
    """Remembers rings."""

    rung: list[str] = field(default_factory=list[str])
    down: bool = False

    def ring(self, resource_class: str) -> None:
        if self.down:
            raise IndexUnavailable("broker down")
        self.rung.append(resource_class)

    def waiting(self, resource_class: str) -> int:
        return self.rung.count(resource_class)


@dataclass
class Bench:
    """Everything a supervisor stands on; `part` is what its job processes play."""

    ledger: Ledger
    index: MemoryIndex
    doorbell: FakeDoorbell
    datasets: DatasetRegistry
    drain: threading.Event
    settings: WorkerSettings
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    part: str = "finish"
    started: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.metrics = WorkerMetrics(self.registry)

    @property
    def settlement(self) -> Settlement:
        publication = Publication(self.ledger.store, self.datasets)
        return Settlement(self.ledger, self.index, self.doorbell, publication)

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.settings, self.settlement, self.metrics, self.drain, self.command)

    def command(self, order: JobOrder) -> Sequence[str]:
        self.started.append(order.claim.epoch)
        folder = self.folder(order.claim.job, order.claim.epoch)
        return [sys.executable, "-S", str(CHILD), self.part, str(folder), str(order.claim.epoch)]

    def folder(self, job: str, epoch: int) -> Path:
        return self.ledger.store.path(self.ledger.attempt_key(job, epoch))

    def submit(self, job: str = "j-1", **fields: object) -> Submission:
        values: Mapping[str, object] = {
            "id": job,
            "kind": "train",
            "spec": {},
            "resolved_spec": {"train": {}},
            "resource_class": "cpu",
            "created": time.time(),
            **fields,
        }
        submission = self.ledger.submit(Submission.model_validate(values))
        self.index.put(self.ledger.record(submission.id))
        return submission

    def run(self, owner: str = "w") -> Ending:
        """Lease the next job and run one attempt of it."""
        record = self.index.acquire("cpu", owner, self.settings.lease_seconds)
        assert record is not None
        return self.supervisor.run(record, owner)

    def begin(self, supervisor: Supervisor, owner: str = "w") -> Running:
        """As `run`, in a thread, once the job process runs."""
        record = self.index.acquire("cpu", owner, self.settings.lease_seconds)
        assert record is not None
        epoch = self.ledger.highest_epoch(record.id) + 1
        running = Running(supervisor, lambda: supervisor.run(record, owner))
        until(lambda: (self.folder(record.id, epoch) / "running").exists())
        return running

    def state(self, job: str = "j-1") -> str:
        record = self.index.get(job)
        assert record is not None
        return record.state


class Running:
    """An attempt that runs in a thread."""

    def __init__(self, supervisor: Supervisor, run: Callable[[], Ending]) -> None:
        self._endings: list[Ending] = []
        self._thread = threading.Thread(target=lambda: self._endings.append(run()))
        self._thread.start()
        self.supervisor = supervisor

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def ending(self) -> Ending:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self._endings[0]


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for `condition`; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def make_bench(root: Path) -> Bench:
    """A bench on an empty store, with short times."""
    store = ArtifactStore(root / "store")
    store.check()
    return Bench(
        ledger=Ledger(store),
        index=MemoryIndex(),
        doorbell=FakeDoorbell(),
        datasets=DatasetRegistry(store, Roots({})),
        drain=threading.Event(),
        settings=WorkerSettings(lease_seconds=0.6, stop_grace_seconds=0.5, retry_seconds=0),
    )
