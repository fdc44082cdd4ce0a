"""How far a job is, by the events of its attempts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from saeserve.jobs.record import Event, JobRecord, Progress, Result

MEMBER_DIVERGED = "MEMBER_DIVERGED"
"""Code of the warning that a member of a sweep trains no more."""
_SUMMED = ("tokens", "tokens_per_second")
"""Metrics of a sweep's members whose sum is one of the job."""


def progress_at(event: Event, latest: Mapping[str, Mapping[str, float]]) -> Progress:
    """The progress that a metrics event reports. `latest` has the metrics of each member by name;
    those of a job without a sweep by ""."""
    data: Mapping[str, Any] = event.data
    members = {name: dict(values) for name, values in latest.items() if name}
    sums = {key: sum(each.get(key, 0.0) for each in members.values()) for key in _SUMMED}
    return Progress(
        step=event.step,
        total_steps=int(data.get("total_steps", 0)),
        unit=str(data.get("unit", "steps")),
        units_per_second=float(data.get("units_per_second", 0.0)),
        metrics=sums if members else data["metrics"],
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
    last: Event | None = None
    latest: dict[str, Mapping[str, float]] = {}
    lost: set[str] = set()
    for event in newest_first:
        member: str = event.data.get("member", "")
        if event.type == "warning" and event.data.get("code") == MEMBER_DIVERGED:
            lost.add(member)
        if event.type != "metrics" or member in lost:
            continue
        if last is not None and event.step != last.step:
            break
        last = last or event
        latest.setdefault(member, cast("Mapping[str, float]", event.data["metrics"]))
        if not member:
            break
    return None if last is None else progress_at(last, latest)
