"""Following a job on the terminal: a bar for the job, and one for each member of a sweep."""

from __future__ import annotations

import typer
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from saeserve.cli.output import errors, metrics_text, print_json, styled
from saeserve.cli.showing import show_job
from saeserve.client import Client
from saeserve.client.values import Job, JobEvent

SHOWN = ("loss", "fvu", "l0", "dead", "tokens_per_second")


def follow(client: Client, job: str, as_json: bool) -> None:
    """Show events as they come. Raises typer.Exit(1) unless the job succeeds."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=errors,
        disable=as_json,
    ) as bars:
        last = _follow(client, job, Screen(bars, job), as_json)
    show_job(last, as_json)
    if last.state != "SUCCEEDED":
        raise typer.Exit(1)


class Screen:
    """The bars of one job, and what is printed above them."""

    def __init__(self, bars: Progress, job: str) -> None:
        self._bars = bars
        self._job = bars.add_task(job, total=None, figures="")
        self._members: dict[str, TaskID] = {}
        self._total: int | None = None

    def take(self, job: Job) -> None:
        """The job as it is."""
        self._total = job.progress.total_steps or _steps(job)
        self._bars.update(self._job, total=self._total)

    def show(self, event: JobEvent) -> None:
        """One event."""
        data = event.data
        if event.type == "metrics_reported":
            self._metrics(event)
        elif event.type == "state_changed":
            self._print(f"{data['state']} {data.get('reason', '')}".rstrip())
        elif event.type == "attempt_started":
            self._print(f"attempt {event.attempt} from step {event.step}")
        elif event.type == "warning_raised":
            self._warning(event)
        elif event.type == "log_written":
            self._print(data.get("message", ""))

    def _metrics(self, event: JobEvent) -> None:
        metrics = event.data.get("metrics", {})
        figures = metrics_text({name: metrics[name] for name in SHOWN if name in metrics})
        if event.member:
            self._bars.update(self._member(event.member), completed=event.step, figures=figures)
            figures = ""
        self._bars.update(self._job, completed=event.step, figures=figures)

    def _warning(self, event: JobEvent) -> None:
        code, message = event.data.get("code", ""), event.data.get("message", "")
        of = f"{event.member}: " if event.member else ""
        self._print(styled("yellow", code, f" {of}{message}"))
        if code == "MEMBER_DIVERGED" and event.member in self._members:
            self._bars.remove_task(self._members.pop(event.member))

    def _member(self, name: str) -> TaskID:
        if name not in self._members:
            self._members[name] = self._bars.add_task(name, total=self._total, figures="")
        return self._members[name]

    def _print(self, text: str | Text) -> None:
        self._bars.console.print(text)


def _steps(job: Job) -> int | None:
    """Steps of a train job that has told none yet."""
    train = job.resolved_spec.get("train", {})
    if "batch_size" not in train:
        return None
    return int(train["tokens"]) // int(train["batch_size"])


def _follow(client: Client, job: str, screen: Screen, as_json: bool) -> Job:
    last: Job | None = None
    for update in client.jobs.watch(job):
        if isinstance(update, Job):
            last = update
            screen.take(update)
        elif as_json:
            print_json(update)
        else:
            screen.show(update)
    return last if last is not None and last.done else client.jobs.get(job)
