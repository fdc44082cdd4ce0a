"""What runners tell, and what the relay and the metrics make of it."""

from __future__ import annotations

import math
from pathlib import Path

from prometheus_client import CollectorRegistry
from tests.fakes.jobs import submission
from tests.fakes.worker_bench import Bench

from saeserve.jobs.events import EventLog, tail
from saeserve.jobs.payloads import MetricsReported
from saeserve.worker.event_relay import EventRelay
from saeserve.worker.metrics import WorkerMetrics
from saeserve.worker.report import Report, Scale


def test_events_carry_what_the_api_shows_of_them(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Report(EventLog(path, 2)) as report:
        report.attempt_started(5)
        report.metrics(10, {"loss": 1.5, "fvu": math.nan, "l0": math.inf}, Scale("steps", 20))
        report.checkpoint(10, 99)
        report.warning(11, "CODE", "mind this")
        report.log("done")
    events = tail(path)
    assert [event.type for event in events] == [
        "attempt_started",
        "metrics",
        "checkpoint",
        "warning",
        "log",
    ]
    assert events[0].data == {"resume_step": 5}
    assert events[1].data["metrics"] == {"loss": 1.5}
    assert events[1].data["total_steps"] == 20
    assert events[1].data["units_per_second"] > 0
    assert events[2].data == {"bytes": 99}
    assert events[3].data == {"code": "CODE", "message": "mind this"}
    assert (events[4].step, events[4].data) == (11, {"message": "done"})
    assert {event.epoch for event in events} == {2}


def test_metrics_follow_the_events_once(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    relay = EventRelay(path, submission(kind="train"), 1, bench.index, bench.metrics)
    relay.forward()
    assert relay.progress is None
    figures = {"loss": 2.0, "loss_aux": 0.5, "fvu": 0.25, "dead": 3.0, "data_wait_fraction": 0.02}
    with Report(EventLog(path, 1)) as report:
        for step in (2, 3, 4):
            report.metrics(step, {**figures, "tokens": 100.0 * step}, Scale("steps", 4))
    relay.forward()
    relay.rewind()
    relay.forward()
    value = bench.registry.get_sample_value
    # Steps 2 to 4 are this attempt's; step 1 was the last one's.
    assert value("saeserve_train_tokens_total") == 300
    assert value("saeserve_train_loss", {"member": "0", "term": "total"}) == 2.0
    assert value("saeserve_train_loss", {"member": "0", "term": "aux"}) == 0.5
    assert value("saeserve_train_fvu", {"member": "0"}) == 0.25
    assert value("saeserve_train_dead_latents", {"member": "0"}) == 3
    assert value("saeserve_train_data_waiting_ratio", {"member": "0"}) == 0.02
    assert (value("saeserve_last_progress_timestamp_seconds", {"kind": "train"}) or 0) > 1.7e9
    assert relay.progress is not None
    assert (relay.progress.step, relay.progress.total_steps) == (4, 4)
    assert relay.progress.metrics["fvu"] == 0.25


def test_harvested_rows_are_counted_from_the_second_report_on(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    path = tmp_path / "events.jsonl"
    with Report(EventLog(path, 1)) as report:
        for rows in (1000, 1600):
            report.metrics(rows, {"rows": rows}, Scale("rows", 2000))
    first, second = (MetricsReported.model_validate(event.data) for event in tail(path))
    metrics.observe("harvest", 1000, first, {}, 0)
    metrics.observe("harvest", 1600, second, first.metrics, 0)
    assert registry.get_sample_value("saeserve_harvest_tokens_total") == 600
    assert registry.get_sample_value("saeserve_train_tokens_total") == 0
