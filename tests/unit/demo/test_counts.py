"""The demo's table of metrics, on what the services' own registries serve."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.fakes.jobs import submission
from tests.fakes.worker_bench import make_bench

from saeserve.client.values import Job, job_value
from saeserve.control.metrics import ControlMetrics
from saeserve.control.settings import ControlSettings
from saeserve.demo.counts import Samples, compare, scrape, total
from saeserve.demo.show import METRICS
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.settings import InferenceSettings
from saeserve.jobs.events import EventLog
from saeserve.jobs.record import Claim
from saeserve.jobs.states import JobState
from saeserve.platform.metrics import serve_metrics
from saeserve.v1 import job_pb2
from saeserve.worker.event_relay import EventRelay
from saeserve.worker.report import Report, Scale
from saeserve.worker.settings import WorkerSettings

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


def test_the_demo_asks_where_the_services_answer_by_default() -> None:
    assert (
        ControlSettings.model_fields["control_metrics_address"].default,
        WorkerSettings.model_fields["worker_metrics_address"].default,
        InferenceSettings.model_fields["inference_metrics_address"].default,
    ) == METRICS
