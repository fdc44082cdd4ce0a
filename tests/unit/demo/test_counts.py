"""The demo's table of metrics, on what the services' own registries serve."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, Counter
from tests.fakes.jobs import submission
from tests.fakes.worker_bench import make_bench

from saeserve.client import Client
from saeserve.client.values import Job, job_value
from saeserve.control.metrics import ControlMetrics
from saeserve.demo import show
from saeserve.demo.counts import Samples, compare, scrape, total
from saeserve.inference.metrics import InferenceMetrics
from saeserve.jobs.events import EventLog
from saeserve.jobs.record import Claim
from saeserve.jobs.states import JobState
from saeserve.platform.metrics import serve_metrics
from saeserve.v1 import job_pb2
from saeserve.worker.event_relay import EventRelay
from saeserve.worker.report import Report, Scale

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def served(registry: CollectorRegistry) -> Samples:
    """What the demo reads of a service."""
    endpoint = serve_metrics(registry, "127.0.0.1:0")
    try:
        return scrape(str(endpoint.address))
    finally:
        endpoint.close()


def trained(tokens: int, started: datetime) -> Job:
    job = job_pb2.Job(id="j-1", state=job_pb2.JOB_STATE_SUCCEEDED)
    job.spec.train.dataset = "acts"
    job.start_time.FromDatetime(started)
    job.progress.metrics["tokens"] = tokens
    return job_value(job)


@pytest.fixture
def control() -> Samples:
    registry = CollectorRegistry()
    counts = {(JobState.SUCCEEDED, "cpu"): 1, (JobState.SUCCEEDED, "gpu"): 1}
    ControlMetrics(registry).count_jobs(counts)
    return served(registry)


@pytest.fixture
def inference() -> Samples:
    registry = CollectorRegistry()
    InferenceMetrics(registry).encode_rows.inc(19)
    return served(registry)


@pytest.fixture
def worker(tmp_path: Path) -> Samples:
    bench = make_bench(tmp_path)
    job, path = submission(kind="train"), tmp_path / "events.jsonl"
    relay = EventRelay(path, job, 0, bench.index, bench.metrics)
    with bench.metrics.attempt(job, Claim(job="j-1", epoch=1, owner="w", time=0.0)):
        with Report(EventLog(path, 1)) as report:
            report.metrics(1, {"loss": 2.0, "tokens": 64.0}, Scale("steps", 2))
            report.metrics(2, {"loss": 1.0, "tokens": 128.0}, Scale("steps", 2))
        relay.forward()
    bench.drain.set()
    return served(bench.registry)


def test_names_and_labels_are_those_that_the_services_serve(
    control: Samples, worker: Samples, inference: Samples
) -> None:
    earlier = trained(1000, SINCE - timedelta(days=1))
    jobs = [trained(128, SINCE), earlier]
    assert compare(control, worker, inference, jobs, 19, SINCE) == [
        ("training tokens", 128, 128),
        ("encoded rows", 19, 19),
        ("jobs SUCCEEDED", 2, 2),
    ]


def test_a_metric_that_is_not_there_is_no_count_of_0(control: Samples) -> None:
    assert total(control, "saeserve_jobs", state="FAILED") == 0
    with pytest.raises(LookupError, match="saeserve_jobs_by_state"):
        total(control, "saeserve_jobs_by_state")
    with pytest.raises(LookupError, match="phase"):
        total(control, "saeserve_jobs", phase="FAILED")


SERVICES = ("control", "worker", "inference")


def served_by_each(
    registries: dict[str, CollectorRegistry], stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve each registry at a port of its own, as the services' settings are made to say."""
    for name, registry in registries.items():
        endpoint = serve_metrics(registry, "127.0.0.1:0")
        stack.callback(endpoint.close)
        monkeypatch.setenv(f"SAESERVE_{name.upper()}_METRICS_ADDRESS", str(endpoint.address))


def test_the_demo_asks_where_the_services_are_set_to_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registries = {name: CollectorRegistry() for name in SERVICES}
    ControlMetrics(registries["control"]).count_jobs({(JobState.SUCCEEDED, "cpu"): 3})
    Counter("saeserve_train_tokens", "", registry=registries["worker"]).inc(5120)
    InferenceMetrics(registries["inference"]).encode_rows.inc(19)
    monkeypatch.setattr(show, "SCRAPE_SECONDS", 0.0)
    # Nobody answers there: the addresses are asked themselves.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with ExitStack() as stack:
        served_by_each(registries, stack, monkeypatch)
        client = SimpleNamespace(jobs=SimpleNamespace(list=lambda: [trained(5120, SINCE)]))
        show.metrics(cast("Client", client), 19, SINCE)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    cells = [[cell for cell in line if cell not in "│┃|"] for line in lines]
    assert ["training", "tokens", "5,120", "5,120"] in cells
    assert ["encoded", "rows", "19", "19"] in cells
    assert ["jobs", "SUCCEEDED", "3", "1"] in cells


def test_the_demo_asks_at_the_defaults_where_nothing_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in SERVICES:
        monkeypatch.delenv(f"SAESERVE_{name.upper()}_METRICS_ADDRESS", raising=False)
    assert show.metrics_addresses() == {
        "control": "127.0.0.1:9470",
        "worker": "127.0.0.1:9471",
        "inference": "127.0.0.1:9472",
    }
