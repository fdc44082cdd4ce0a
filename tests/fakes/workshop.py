"""Jobs that run in the test's own process, on a real store."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.synthetic import write_synthetic
from tests.fakes.worker_bench import Bench

from saeserve.jobs.events import tail
from saeserve.jobs.record import Event, Failure, Output
from saeserve.registry.models import ModelRegistry
from saeserve.registry.version import ModelVersion
from saeserve.worker import job_process
from saeserve.worker.order import ExitCode, JobOrder
from saeserve.worker.report import MemberOf, Report, Scale

STEPS = 40
BATCH = 64


@dataclass
class Workshop:
    """A bench with a store to run real jobs on; `roots` as the worker's settings have them."""

    bench: Bench
    roots: dict[str, Path] = field(default_factory=dict[str, Path])
    stop: threading.Event = field(default_factory=threading.Event)
    machine: str = ""
    """Kind under which speeds are recorded."""

    def planted(self, name: str = "planted", **options: Any) -> None:  # noqa: ANN401 - passed on
        """A READY data set of planted features."""
        self.bench.datasets.create(name)
        folder = self.bench.datasets.get(name).folder
        shape: dict[str, Any] = {"d": 16, "n_features": 24, "active": 3, "rows": 2048, "seed": 1}
        manifest = write_synthetic(folder, name=name, offset=3.0, **{**shape, **options})
        self.bench.datasets.commit(name, manifest.to_bytes())

    def train(self, job: str, **fields: object) -> ExitCode:
        """Submit a small train job and run an attempt of it."""
        return self.submit(job, "train", self.train_spec(**fields))

    def train_spec(self, **fields: object) -> dict[str, Any]:
        """A small train job."""
        return {
            "dataset": "planted",
            "model": "m",
            "topk": {"k": 4},
            "d_sae": 32,
            "tokens": STEPS * BATCH,
            "batch_size": BATCH,
            "checkpoint_every_steps": 10,
            "log_every_steps": 5,
            "eval_rows": 256,
            **fields,
        }

    def submit(self, job: str, kind: str, spec: dict[str, Any]) -> ExitCode:
        """Submit a job and run an attempt of it."""
        self.bench.submit(job, kind=kind, resolved_spec={kind: spec})
        return self.run(job)

    def run(self, job: str) -> ExitCode:
        """Run the next attempt of a job."""
        return job_process.run(self.claim(job), self.stop)

    def claim(self, job: str) -> JobOrder:
        """Claim the next attempt of a job, for `job_process.run`."""
        return JobOrder(
            claim=self.bench.ledger.claim(job, "w", 0.0),
            store=self.bench.ledger.store.root,
            roots=self.roots,
            parent=1,
            stop_grace_s=1,
            torch_threads=1,
            machine=self.machine,
        )

    def stop_at(self, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ask the run to stop once it reports `step`, of whichever member."""
        report = Report.metrics

        def reporting(
            told: Report,
            at: int,
            values: Mapping[str, float],
            scale: Scale,
            member: MemberOf | None = None,
        ) -> None:
            report(told, at, values, scale, member)
            if at == step:
                self.stop.set()

        monkeypatch.setattr(Report, "metrics", reporting)

    def events(self, job: str, epoch: int = 1) -> list[Event]:
        """What an attempt told."""
        return tail(self.bench.folder(job, epoch) / "events.jsonl")

    def output(self, job: str) -> Output:
        """The one output of a job that succeeded."""
        result = self.bench.ledger.result(job)
        assert result is not None
        assert len(result.outputs) == 1
        return result.outputs[0]

    def failure(self, job: str, epoch: int = 1) -> Failure:
        """Why an attempt failed."""
        failure = self.bench.ledger.failure(job, epoch)
        assert failure is not None
        return failure

    @property
    def models(self) -> ModelRegistry:
        """The registry."""
        return ModelRegistry(self.bench.ledger.store)

    def model(self, reference: str) -> ModelVersion:
        """A published version."""
        return self.models.resolve(reference)
