"""What members of a sweep tell, and what progress and metrics make of it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.fakes.jobs import submission
from tests.fakes.worker_bench import Bench

from saeserve.core.specs.sweep import MOST_MEMBERS
from saeserve.jobs.events import EventLog, tail
from saeserve.jobs.payloads import MEMBER_DIVERGED
from saeserve.worker.event_relay import EventRelay
from saeserve.worker.report import MemberOf, Report, Scale

A, B = MemberOf("sae-k16", 0), MemberOf("sae-k32", 1)
SCALE = Scale("steps", 10)


def values(tokens: float, **more: float) -> dict[str, float]:
    return {"loss": 2.0, "fvu": 0.25, "tokens": tokens, "tokens_per_second": 50.0, **more}


@pytest.fixture
def relay(bench: Bench, tmp_path: Path) -> EventRelay:
    path = tmp_path / "events.jsonl"
    return EventRelay(path, submission(kind="train"), 0, bench.index, bench.metrics)


@pytest.fixture
def report(tmp_path: Path) -> Generator[Report]:
    with Report(EventLog(tmp_path / "events.jsonl", 1)) as opened:
        yield opened


def test_members_that_tell_of_the_same_step_have_the_same_speed(
    report: Report, tmp_path: Path
) -> None:
    for step in (1, 2):
        for member in (A, B):
            report.metrics(step, values(64.0 * step), SCALE, member)
    speeds = [event.data["units_per_second"] for event in tail(tmp_path / "events.jsonl")]
    assert speeds[0] == speeds[1] > 0
    assert speeds[2] == speeds[3] > 0


def test_progress_has_each_members_figures_and_the_jobs_sums(
    relay: EventRelay, report: Report
) -> None:
    report.metrics(5, values(320, l0=16), SCALE, A)
    report.metrics(5, values(320, l0=32), SCALE, B)
    relay.forward()
    assert relay.progress is not None
    assert relay.progress.metrics == {"tokens": 640, "tokens_per_second": 100}
    assert {name: m["l0"] for name, m in relay.progress.members.items()} == {
        "sae-k16": 16,
        "sae-k32": 32,
    }
    assert (relay.progress.step, relay.progress.total_steps) == (5, 10)


def test_prometheus_tells_members_apart_by_number(
    bench: Bench, relay: EventRelay, report: Report
) -> None:
    for step in (5, 10):
        report.metrics(step, values(64.0 * step, l0=16), SCALE, A)
        report.metrics(step, values(64.0 * step, l0=32), SCALE, B)
    relay.forward()
    value = bench.registry.get_sample_value
    assert value("saeserve_train_l0", {"member": "0"}) == 16
    assert value("saeserve_train_l0", {"member": "1"}) == 32
    assert value("saeserve_train_loss", {"member": "1", "term": "total"}) == 2.0
    assert value("saeserve_train_tokens_total") == 2 * 640
    assert value("saeserve_train_diverged_members_total") == 0


def test_warnings_are_counted_by_code_once_each(
    bench: Bench, relay: EventRelay, report: Report
) -> None:
    report.warning(0, "TOO_FEW_STEPS", "m")
    for member in (A, B):
        report.warning(9, "FVU_HIGH", "m", member)
    relay.forward()
    relay.rewind()
    relay.forward()
    value = bench.registry.get_sample_value
    assert value("saeserve_job_warnings_total", {"code": "TOO_FEW_STEPS"}) == 1
    assert value("saeserve_job_warnings_total", {"code": "FVU_HIGH"}) == 2


def test_one_that_diverged_is_counted_and_its_figures_are_gone(
    bench: Bench, relay: EventRelay, report: Report
) -> None:
    for member in (A, B):
        report.metrics(5, values(320), SCALE, member)
    report.warning(6, MEMBER_DIVERGED, "DIVERGED_NAN: step 6: the loss is nan", B)
    relay.forward()
    relay.rewind()
    relay.forward()
    value = bench.registry.get_sample_value
    assert value("saeserve_train_diverged_members_total") == 1
    assert value("saeserve_train_fvu", {"member": "0"}) == 0.25
    assert value("saeserve_train_fvu", {"member": "1"}) is None
    assert value("saeserve_train_loss", {"member": "1", "term": "total"}) is None
    report.metrics(7, values(448), SCALE, A)
    relay.forward()
    assert relay.progress is not None
    assert list(relay.progress.members) == ["sae-k16"]


def test_one_that_diverged_before_it_told_anything_is_counted(
    bench: Bench, relay: EventRelay, report: Report
) -> None:
    report.warning(1, MEMBER_DIVERGED, "DIVERGED_NAN: step 1: the loss is nan", B)
    relay.forward()
    assert bench.registry.get_sample_value("saeserve_train_diverged_members_total") == 1


def test_the_series_are_bounded_and_those_of_the_job_before_go(
    bench: Bench, relay: EventRelay, report: Report, tmp_path: Path
) -> None:
    for number in range(MOST_MEMBERS):
        report.metrics(5, values(320), SCALE, MemberOf(f"sae-seed{number}", number))
    relay.forward()
    assert bench.registry.get_sample_value("saeserve_train_fvu", {"member": "63"}) == 0.25
    second = tmp_path / "second.jsonl"
    job = submission(kind="train")
    with Report(EventLog(second, 1)) as next_report:
        next_report.metrics(5, values(320), SCALE)
    EventRelay(second, job, 0, bench.index, bench.metrics).forward()
    told = {
        sample.labels.get("member")
        for family in bench.registry.collect()
        for sample in family.samples
        if sample.name.startswith("saeserve_train_")
    }
    assert told == {None, "0"}


def test_a_harvest_leaves_the_figures_of_training(
    bench: Bench, relay: EventRelay, report: Report, tmp_path: Path
) -> None:
    report.metrics(5, values(320), SCALE)
    relay.forward()
    second = tmp_path / "second.jsonl"
    with Report(EventLog(second, 1)) as harvest:
        harvest.metrics(5, {"rows": 5}, Scale("rows", 10))
    EventRelay(second, submission(kind="harvest"), 0, bench.index, bench.metrics).forward()
    assert bench.registry.get_sample_value("saeserve_train_fvu", {"member": "0"}) == 0.25
