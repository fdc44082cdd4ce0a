"""How far a job is, by the events of its attempts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from saeserve.jobs.payloads import MetricsReported, WarningRaised
from saeserve.jobs.record import Event, JobRecord, Progress, Result

_SUMMED = ("tokens", "tokens_per_second")
"""Metrics of a sweep's members whose sum is one of the job."""


def progress_at(
    step: int, report: MetricsReported, latest: Mapping[str, Mapping[str, float]]
) -> Progress:
    """The progress that a report at `step` means. `latest` has the metrics of each member by name;
    those of a job without a sweep by ""."""
    members = {name: dict(values) for name, values in latest.items() if name}
    sums = {key: sum(each.get(key, 0.0) for each in members.values()) for key in _SUMMED}
    return Progress(
        step=step,
        total_steps=report.total_steps,
        unit=report.unit,
        units_per_second=report.units_per_second,
        metrics=sums if members else report.metrics,
        members=members,
    )


def final_progress(result: Result, newest_first: Iterable[Event]) -> Progress:
    """The progress of an ended job: its last report, and no fewer steps than its result says.

    The heartbeats alone cannot give it: whoever finds the result first makes the job terminal,
    and the worker's next heartbeat is refused.
    """
    last = _last_report(newest_first) or Progress()
    return last.model_copy(update={"step": max(last.step, result.steps)})


def ended(record: JobRecord, result: Result, newest_first: Iterable[Event]) -> JobRecord:
    """`record` as its committed `result` and the events of its attempts make it."""
    return record.model_copy(
        update={
            "state": result.state,
            "epoch": max(record.epoch, result.epoch),
            "owner_id": "",
            "progress": final_progress(result, newest_first),
            "outputs": result.outputs,
            "failure": result.failure,
            "ended": result.time,
        }
    )


def _last_report(newest_first: Iterable[Event]) -> Progress | None:
    """The latest metrics, of a sweep those of every member that reported at the same step and has
    not diverged since."""
    last: tuple[int, MetricsReported] | None = None
    latest: dict[str, Mapping[str, float]] = {}
    lost: set[str] = set()
    for event in newest_first:
        payload = event.payload
        if isinstance(payload, WarningRaised) and payload.ends_member:
            lost.add(payload.member)
        if not isinstance(payload, MetricsReported) or payload.member in lost:
            continue
        if last is not None and event.step != last[0]:
            break
        last = last or (event.step, payload)
        latest.setdefault(payload.member, payload.metrics)
        if not payload.member:
            break
    return None if last is None else progress_at(*last, latest)
