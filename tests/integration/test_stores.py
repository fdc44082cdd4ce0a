"""Stores that earlier releases wrote are read, served and worked on by this one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fakes.real_stack import RealStack

STORES = sorted(p.parent for p in (Path(__file__).parents[1] / "stores").glob("*/jobs"))
PATIENCE_S = 300.0


@pytest.fixture(scope="module", params=STORES, ids=lambda p: p.name)
def old(request: pytest.FixtureRequest, make_stack: Callable[[], RealStack]) -> RealStack:
    """A whole stack on a copy of one stored store."""
    stack = make_stack()
    source: Path = request.param
    shutil.copytree(source, stack.store.root, dirs_exist_ok=True)
    stack.start_broker()
    stack.control()
    stack.inference()
    return stack


def states(stack: RealStack) -> dict[str, str]:
    """State of each job, by what its spec made."""
    found: dict[str, str] = {}
    for job in stack.client.jobs.list():
        submission = json.loads((stack.store.root / "jobs" / job.id / "job.json").read_text())
        spec = submission["spec"]
        if "train" in spec:
            found[f"{spec['train']['model']}-{spec['train'].get('seed', 0)}"] = job.state
        else:
            found["+".join(k for k, v in spec.items() if v)] = job.state
    return found


def test_every_job_is_listed_as_it_ended(old: RealStack) -> None:
    seen = states(old)
    assert {k: v for k, v in seen.items() if v in ("SUCCEEDED", "FAILED", "CANCELLED")} == {
        "ingest": "SUCCEEDED",
        "topk-0": "SUCCEEDED",
        "topk-1": "SUCCEEDED",
        "jumprelu-0": "SUCCEEDED",
        "swept-0": "SUCCEEDED",
        "diverged-0": "FAILED",
        "export_model": "SUCCEEDED",
        "cancelled-0": "CANCELLED",
    }
    assert seen["queued-0"] == "QUEUED"
    assert seen["running-0"] not in ("SUCCEEDED", "FAILED", "CANCELLED")


def test_its_models_encode_and_its_aliases_point(old: RealStack) -> None:
    rows = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    for model in ("topk@prod", "topk@2", "jumprelu", "swept-k2", "swept-k4"):
        features = old.client.encode(model, rows)
        assert features.offsets[-1] == len(features.indices)
    assert old.client.models.get("topk@prod").resource == "models/topk/versions/1"


@pytest.mark.timeout(3 * PATIENCE_S)
def test_what_was_running_goes_on_and_what_was_queued_runs(old: RealStack) -> None:
    old.worker()
    for job in old.client.jobs.list():
        old.wait(job.id, seconds=PATIENCE_S)
    seen = states(old)
    assert (seen["running-0"], seen["queued-0"]) == ("SUCCEEDED", "SUCCEEDED")
    [running] = [j for j in old.client.jobs.list() if j.attempt == 2]
    started = [e for e in old.ledger.events(running.id) if e.type == "attempt_started"]
    assert started[-1].data["resume_step"] > 0


def test_its_pending_upload_is_ingested(old: RealStack) -> None:
    job = old.client.jobs.submit({"ingest": {"dataset": "uploaded"}}).id
    assert old.wait(job, seconds=PATIENCE_S).state == "SUCCEEDED"
    assert old.client.datasets.get("uploaded").state == "READY"
