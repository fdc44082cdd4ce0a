"""What every command that submits a job has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from saeserve.cli.field_sources import field_sources_text, preset_of
from saeserve.cli.output import connect, console, errors, print_json, warnings_text
from saeserve.cli.watching import follow

File = Annotated[Path | None, typer.Option("--file", "-f", help="Job file, YAML or JSON.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Any field, e.g. --set optimizer.lr=1e-3.")
]
WaitsFor = Annotated[list[str] | None, typer.Option(help="Job that must succeed first.")]
RequestId = Annotated[str | None, typer.Option(help="Makes a retry of this command safe.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow the job to its end.")]
Priority = Annotated[int, typer.Option(help="Higher runs first.")]


def send(
    spec: dict[str, Any],
    waits_for: list[str] | None,
    request_id: str | None,
    priority: int,
    watch: bool,
    as_json: bool,
) -> None:
    """Submit a spec and say how it goes on, or follow the job to its end."""
    with connect() as client:
        job = client.jobs.submit(
            spec, waits_for=waits_for or (), request_id=request_id, priority=priority
        )
        for warning in () if as_json else job.warnings:
            errors.print(Text(warnings_text([warning]), style="yellow"))
        if job.field_sources and not as_json:
            errors.print(field_sources_text(job.field_sources, preset_of(job)), highlight=False)
        if watch:
            follow(client, job.id, as_json)
        elif as_json:
            print_json(job)
        else:
            console.print(f"{job.id} {job.state}; saeserve jobs watch {job.id}", highlight=False)
