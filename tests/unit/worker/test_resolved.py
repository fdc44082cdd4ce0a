"""A train job that is submitted before its data set is READY shows what its worker resolved."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.control import Bench, make_bench
from tests.fakes.synthetic import write_synthetic

from saeserve.control.converters.jobs import etag, job_message, listed_message
from saeserve.jobs.record import FieldSource, JobFilter, JobRecord
from saeserve.jobs.states import JobState
from saeserve.worker import job_process
from saeserve.worker.order import ExitCode, JobOrder

HARVEST = {
    "dataset": "acts",
    "language_model": {"path": "far:smol"},
    "texts": [{"path": "far:a.txt"}],
    "sites": [{"layer": 3}],
}
TRAIN = {
    "dataset": "acts",
    "model": "sae",
    "topk": {"k": 4},
    "d_sae": 32,
    "tokens": 2560,
    "batch_size": 64,
    "dead_window_tokens": 100_000,
    "eval_rows": 256,
}
PENDING = {"source", "topk.k_aux", "optimizer.lr"}


@dataclass
class Early:
    """A train job that waits for a harvest, then runs on what that made."""

    bench: Bench
    job: str = ""

    def submit(self, **changes: Any) -> JobRecord:  # noqa: ANN401 - any field
        harvest = self.bench.submit({"harvest": HARVEST}).id
        record = self.bench.submit({"train": TRAIN | changes}, waits_for=(harvest,))
        self.job = record.id
        folder = self.bench.datasets.get("acts").folder
        manifest = write_synthetic(
            folder, name="acts", d=16, n_features=24, active=3, rows=2048, seed=1, offset=3.0
        )
        self.bench.datasets.commit("acts", manifest.to_bytes())
        self.bench.end(harvest, JobState.SUCCEEDED)
        assert self.bench.index.unblock(self.job)
        return record

    def run(self) -> None:
        """Run an attempt; the one before it was lost."""
        owner = self.bench.start(self.job).owner
        claim = self.bench.ledger.claim(self.job, owner, 2001.0)
        order = JobOrder(
            claim=claim,
            store=self.bench.store.root,
            parent=1,
            stop_grace_s=1,
            torch_threads=1,
            machine="",
            roots={},
        )
        assert job_process.run(order, threading.Event()) is ExitCode.FINISHED

    def get(self) -> JobRecord:
        return self.bench.parts.jobs.catalog.get(self.job)


@pytest.fixture
def early(tmp_path: Path) -> Early:
    return Early(make_bench(tmp_path))


def sources(record: JobRecord) -> dict[str, FieldSource]:
    return {each.field: each for each in record.submission.field_sources}


def test_the_job_shows_what_its_worker_resolved(early: Early) -> None:
    before = sources(early.submit())
    waiting = {name for name, each in before.items() if not each.value}
    assert waiting >= PENDING
    early.run()
    record = early.get()
    after = sources(record)
    assert all(each.value for each in after.values())
    assert after["source"].value == '"activations"'
    assert after["dead_window_tokens"].origin == "adjusted"
    assert not any(each.reason == "once the data set is READY" for each in after.values())
    message = job_message(record)
    assert message.resolved_spec.train.source == "activations"
    assert message.resolved_spec.train.topk.k_aux > 0
    assert message.spec.train.source == ""
    assert set(after) >= set(before)


def test_every_call_shows_the_same_job_and_a_rebuild_too(early: Early) -> None:
    early.submit()
    early.run()
    early.bench.index.set_generation("g0")
    seen = early.get()
    [listed] = early.bench.parts.jobs.catalog.page(JobFilter(kinds=frozenset({"train"})), 9, "")[0]
    assert listed_message(listed).resolved_spec == job_message(seen).resolved_spec
    assert etag(listed) == etag(seen)
    early.bench.index.down = True
    assert early.get().submission == seen.submission


def test_a_sweep_names_the_members_of_what_differs(early: Early) -> None:
    early.submit(sweep={"d_sae": [32, 64]}, d_sae=None)
    early.run()
    record = early.get()
    assert all(each.value for each in record.submission.field_sources)
    assert record.submission.resolved_spec["train"]["sweep"]["d_sae"] == [32, 64]
    named = {each.member for each in record.submission.field_sources if each.member}
    assert named == {"sae-d32", "sae-d64"}


def test_a_damaged_resolution_leaves_the_job_as_it_was_submitted(early: Early) -> None:
    submitted = early.submit().submission
    early.run()
    (early.bench.store.root / "jobs" / early.job / "resolved.json").write_text("{")
    assert early.get().submission == submitted
