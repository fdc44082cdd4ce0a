"""A harvest whose context_length only its worker can know, since control sees no model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fakes.control import Bench, make_bench
from tests.fakes.tiny_models import POSITIONS, WORDS, save_model, save_tokenizer, tiny_llama

from saeserve.control.converters.jobs import job_message
from saeserve.jobs.events import tail
from saeserve.jobs.payloads import LogWritten
from saeserve.worker import job_process
from saeserve.worker.order import ExitCode, JobOrder

SPEC: dict[str, Any] = {
    "dataset": "acts",
    "language_model": {"path": "far:lm"},
    "texts": [{"path": "far:text.txt", "format": "lines"}],
    "sites": [{"hook": "resid_post", "layer": 1}],
    "heldout_fraction": 0.3,
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def run(bench: Bench, folder: Path, **changes: object) -> tuple[str, ExitCode]:
    """Submit where root `far` is not mounted, and run an attempt where it is `folder`."""
    (folder / "lm").mkdir(parents=True)
    save_model(tiny_llama(), folder / "lm")
    save_tokenizer(folder / "lm")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 2 * POSITIONS)) for _ in range(10)]
    (folder / "text.txt").write_text("\n".join(lines))
    job = bench.submit({"harvest": SPEC | changes}).id
    order = JobOrder(
        claim=bench.ledger.claim(job, bench.start(job).owner, 2001.0),
        store=bench.store.root,
        parent=1,
        stop_grace_s=1,
        torch_threads=1,
        machine="",
        roots={"far": folder},
    )
    return job, job_process.run(order, threading.Event())


def logs(bench: Bench, job: str) -> list[str]:
    folder = bench.store.path(bench.ledger.attempt_key(job, 2))
    events = tail(folder / "events.jsonl")
    return [each.payload.message for each in events if isinstance(each.payload, LogWritten)]


def test_the_worker_takes_the_positions_that_the_model_has(bench: Bench, tmp_path: Path) -> None:
    job, code = run(bench, tmp_path / "far")
    assert code is ExitCode.FINISHED
    assert any(f"context_length is {POSITIONS}: all positions" in line for line in logs(bench, job))
    record = bench.parts.jobs.catalog.get(job)
    assert record.submission.resolved_spec["harvest"]["context_length"] == POSITIONS
    assert not record.submission.unresolved
    assert job_message(record).resolved_spec.harvest.context_length == POSITIONS
    assert not job_message(record).spec.harvest.HasField("context_length")


def test_a_given_length_that_is_too_large_fails(bench: Bench, tmp_path: Path) -> None:
    job, code = run(bench, tmp_path / "far", context_length=POSITIONS + 1)
    assert code is not ExitCode.FINISHED
    failure = bench.ledger.failure(job, 2)
    assert failure is not None
    assert f"exceeds the model's {POSITIONS} positions" in failure.message
