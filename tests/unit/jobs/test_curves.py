"""Curves from events: every report once, whatever was killed and resumed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from saeserve.client.curves import read_curves
from saeserve.jobs.curves import Point, curves, to_csv
from saeserve.jobs.payloads import AttemptStarted, EventPayload, LogWritten, MetricsReported
from saeserve.jobs.record import Event

MEMBERS = ("", "m-k2", "m-k4")


def value(member: str, step: int) -> float:
    return step + len(member) / 8


def attempt(epoch: int, resume: int, last: int, members: tuple[str, ...]) -> Iterator[Event]:
    """Events of an attempt that reports every step after `resume` up to `last`."""

    def event(payload: EventPayload, step: int) -> Event:
        return Event(epoch=epoch, op=0, time=100.0 * epoch + step, step=step, payload=payload)

    yield event(AttemptStarted(resume_step=resume), resume)
    for step in range(resume + 1, last + 1):
        for number, member in enumerate(members):
            values = {"tokens": 64.0 * step, "fvu": value(member, step)}
            report = MetricsReported(metrics=values, member=member, member_number=number)
            yield event(report, step)
        yield event(LogWritten(message="so far"), step)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=5),
    st.sampled_from([MEMBERS[:1], MEMBERS[1:]]),
)
def test_each_report_stands_once_whatever_attempts_there_were(
    attempts: list[tuple[int, int]], members: tuple[str, ...]
) -> None:
    events: list[Event] = []
    done = 0
    taken: dict[int, int] = {}
    for epoch, (back, further) in enumerate(attempts, start=1):
        resume = max(0, done - back)
        done = resume + further
        events += attempt(epoch, resume, done, members)
        taken = {step: e for step, e in taken.items() if step <= resume}
        taken |= dict.fromkeys(range(resume + 1, done + 1), epoch)
    found = curves(events, "m")
    assert [(p.model, p.step, p.attempt) for p in found] == [
        (member or "m", step, taken[step]) for member in members for step in sorted(taken)
    ]
    assert all(
        p.tokens == 64 * p.step and p.values == {"fvu": value(m, p.step)}
        for m, p in ((p.model if members != MEMBERS[:1] else "", p) for p in found)
    )


def test_the_file_has_a_column_for_each_figure_and_numbers_that_read_back() -> None:
    points = [
        Point("a", 5, 320, 1795761939.5, 1, {"zeta": 0.1 + 0.2, "l0": 4.0, "loss": 1e-30}),
        Point("b", 5, 320, 1795761940.25, 2, {"fvu": 1 / 3}),
    ]
    data = to_csv(points)
    [head, *rows] = csv.reader(io.StringIO(data.decode()))
    assert head == ["model", "step", "tokens", "time", "attempt", "loss", "fvu", "l0", "zeta"]
    assert rows[1] == ["b", "5", "320", "1795761940.25", "2", "", repr(1 / 3), "", ""]
    read = read_curves(data)
    assert [(r.model, r.step, r.tokens, r.attempt, r.values) for r in read] == [
        (p.model, p.step, p.tokens, p.attempt, p.values) for p in points
    ]
    assert [r.time.timestamp() for r in read] == [p.time for p in points]
