"""Following a job: bars on a terminal, lines in a log."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

import typer

from saeserve.cli.bars import Bars
from saeserve.cli.describing import described, progress
from saeserve.cli.lines import Lines
from saeserve.cli.output import errors, print_json_line
from saeserve.cli.showing import show_job
from saeserve.cli.watched import Screen
from saeserve.client import Client
from saeserve.client.field_sources import FieldSource
from saeserve.client.values import Job


def follow(client: Client, job: str, as_json: bool, shown: Sequence[FieldSource] = ()) -> None:
    """Show events as they come; as JSON each is a line, the job as it ended the last. Its field
    sources that were `shown` before are not shown again.

    Raises typer.Exit(1) unless the job succeeds.
    """
    with _screen() as screen:
        last = _follow(client, job, screen, as_json)
    if as_json:
        print_json_line(last)
    else:
        show_job(last, as_json, shown)
    if last.state != "SUCCEEDED":
        raise typer.Exit(1)


@contextlib.contextmanager
def _screen() -> Generator[Screen]:
    if not errors.is_terminal:
        yield Lines()
        return
    with Bars() as bars:
        yield bars


def _follow(client: Client, job: str, screen: Screen, as_json: bool) -> Job:
    last: Job | None = None
    for update in client.jobs.watch(job):
        if isinstance(update, Job):
            first, last = last is None, update
            if not as_json:
                _begin(screen, update) if first else screen.take(update)
        elif as_json:
            print_json_line(update)
        else:
            screen.show(update)
    return last if last is not None and last.done else client.jobs.get(job)


def _begin(screen: Screen, job: Job) -> None:
    screen.say(f"{job.id}: {described(job)}")
    if job.waiting is not None:
        screen.say(f"{job.state}: {progress(job)}")
    screen.take(job)
