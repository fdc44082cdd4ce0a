"""Following a job: bar, percent and time left at every width, readable lines in a log."""

from __future__ import annotations

import dataclasses
import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from rich.text import Text

from saeserve.cli import lines
from saeserve.cli.bars import Bars
from saeserve.cli.lines import Lines
from saeserve.cli.watched import Screen
from saeserve.client.events import JobEvent, event_value
from saeserve.client.values import Job, job_value
from saeserve.v1 import job_pb2

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
METRICS = {"loss": 182_100.0, "fvu": 0.123456, "l0": 32.0, "dead": 7.0, "tokens_per_second": 85_250}


def job() -> Job:
    message = job_pb2.Job(id="j-01234567890123456789", state=job_pb2.JOB_STATE_RUNNING)
    message.spec.train.SetInParent()
    message.progress.total_steps = 1000
    return job_value(message)


def report(step: int, seconds: float) -> JobEvent:
    payload = job_pb2.MetricsReported(metrics=METRICS)
    event = event_value(job_pb2.JobEvent(step=step, metrics_reported=payload))
    return dataclasses.replace(event, time=BEGAN + timedelta(seconds=seconds))


def ended() -> JobEvent:
    change = job_pb2.StateChanged(state=job_pb2.JOB_STATE_SUCCEEDED)
    return event_value(job_pb2.JobEvent(step=1000, state_changed=change))


def play(screen: Screen) -> None:
    """Half of a job: two steps a second."""
    screen.take(job())
    for step in range(10, 501, 10):
        screen.show(report(step, step / 2))


@pytest.mark.parametrize(
    ("width", "figures"),
    [
        (200, "loss=182,100 fvu=0.1235 l0=32 dead=7 tokens_per_second=85,250"),
        (120, "loss=182,100 fvu=0.1235 l0=32 dead=7"),
        (80, "loss=182,100 fvu=0.1235 l0=32"),
        (40, ""),
    ],
)
def test_bar_percent_and_time_left_are_there(width: int, figures: str) -> None:
    out = io.StringIO()
    with Bars(Console(file=out, width=width, force_terminal=True, no_color=True)) as bars:
        play(bars)
    text = Text.from_ansi(out.getvalue()).plain.splitlines()
    last = next(line for line in reversed(text) if "%" in line)
    assert len(last) <= width
    assert "━" in last
    assert " 50%" in last
    assert "4m10s" in last
    assert figures in last
    assert "…" not in last
    assert "e+" not in last


def test_a_log_has_lines_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(lines, "errors", Console(file=out, width=40))
    screen = Lines()
    play(screen)
    screen.show(ended())
    told = out.getvalue().splitlines()
    assert told[-1] == "SUCCEEDED"
    whole = ["loss=182,100", "fvu=0.1235", "l0=32", "dead=7", "tokens_per_second=85,250"]
    assert all(sorted(line.split()[-5:]) == sorted(whole) for line in told[:-1])
    assert told[-2].startswith(" 50% step 500/1,000  4m10s left")
    assert 20 <= len(told) <= 30, "one each ten seconds of 250"
    assert "━" not in out.getvalue()


def test_events_that_are_replayed_at_once_do_not_change_the_time_left() -> None:
    screen = Lines()
    screen.take(job())
    for step in range(10, 501, 10):
        screen.pace.report(BEGAN + timedelta(seconds=step * 4), step)
    assert screen.pace.remaining_seconds(1000) == pytest.approx(2000)
    screen.pace.report(BEGAN + timedelta(seconds=3000), 100)
    assert screen.pace.remaining_seconds(1000) is None, "a new attempt went back"
