"""The log of an attempt: dense ops, whole lines, nothing read twice."""

from __future__ import annotations

import errno
import logging
import math
from io import FileIO
from pathlib import Path

import pytest

from saeserve.jobs.events import EventLog, EventTail, merged, tail
from saeserve.jobs.payloads import LogWritten, MetricsReported, WarningRaised


def write(path: Path, *steps: int) -> None:
    with EventLog(path, 2, clock=lambda: 7.5) as log:
        for step in steps:
            log.append(MetricsReported(metrics={"loss": float("nan")}), step=step)


def test_of_an_event_that_finds_no_room_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a line would spoil the next one."""
    path = tmp_path / "events.jsonl"

    def half(file: FileIO, data: memoryview) -> int:
        if len(data) < 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        return file.write(data[: len(data) // 2])

    with EventLog(path, 1) as log:
        log.append(LogWritten(message="first"))
        with monkeypatch.context() as patch:
            patch.setattr("saeserve.jobs.events.write_some", half)
            with pytest.raises(OSError, match="No space"):
                log.append(LogWritten(message="second"))
        log.append(LogWritten(message="third"))
    assert [(e.op, e.data["message"]) for e in tail(path)] == [(0, "first"), (1, "third")]


def test_events_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "attempt" / "events.jsonl"
    write(path, 10, 20)
    first, second = tail(path)
    assert (first.epoch, first.op, first.time, first.step, first.type) == (2, 0, 7.5, 10, "metrics")
    assert isinstance(first.payload, MetricsReported)
    assert math.isnan(first.payload.metrics["loss"])
    assert (second.op, second.step) == (1, 20)
    [rest] = tail(path, from_op=1)
    assert rest.model_dump_json() == second.model_dump_json()  # NaN equals nothing
    assert tail(tmp_path / "none.jsonl") == []


def test_every_event_is_there_before_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, 1) as log:
        told = log.append(LogWritten(message="hello"))
        assert tail(path) == [told]


def test_a_torn_last_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, 10, 20)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    follower = EventTail(path)
    assert [e.step for e in follower.read()] == [10]
    assert follower.read() == []
    path.write_bytes(whole)
    assert [e.step for e in follower.read()] == [20]


def test_reopening_cuts_the_torn_line_and_counts_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, 10, 20)
    path.write_bytes(path.read_bytes()[:-5])
    write(path, 30)
    assert [(e.op, e.step) for e in tail(path)] == [(0, 10), (1, 30)]


def test_a_damaged_line_is_told_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "events.jsonl"
    write(path, 10)
    with path.open("ab") as file:
        file.write(b"\0\0\0\n")
    write(path, 20)
    with caplog.at_level(logging.WARNING):
        assert [(e.op, e.step) for e in tail(path)] == [(0, 10), (1, 20)]
    assert "damaged line of 3 bytes" in caplog.text


def test_a_follower_reads_each_event_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    follower = EventTail(path)
    assert follower.read() == []
    write(path, 10)
    assert [e.step for e in follower.read()] == [10]
    write(path, 20, 30)
    assert [e.step for e in follower.read()] == [20, 30]
    assert follower.read() == []


def test_a_workers_events_are_numbered_downwards_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "worker.jsonl"
    for _ in range(2):
        with EventLog(path, 3, by_worker=True) as log:
            log.append(WarningRaised())
            log.append(WarningRaised())
    read = EventTail(path).read()
    assert [event.op for event in read] == [-2, -3, -4, -5]
    assert all(event.by_worker for event in read)


def test_an_attempts_events_come_in_the_order_of_time(tmp_path: Path) -> None:
    times = iter([1.0, 4.0, 9.0, 2.0, 5.0])
    with EventLog(tmp_path / "events.jsonl", 1, clock=lambda: next(times)) as log:
        for _ in range(3):
            log.append(MetricsReported())
    with EventLog(tmp_path / "worker.jsonl", 1, by_worker=True, clock=lambda: next(times)) as log:
        for _ in range(2):
            log.append(WarningRaised())
    assert [event.op for event in merged(tmp_path)] == [0, -2, 1, -3, 2]
