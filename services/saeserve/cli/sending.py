"""What every command that submits a job has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from saeserve.cli.field_sources import field_sources_text, preset_of
from saeserve.cli.output import Json, connect, errors, print_json, say, warnings_text
from saeserve.cli.refusals import refused
from saeserve.cli.showing import show_all
from saeserve.cli.specs import Tree
from saeserve.cli.watching import follow

File = Annotated[Path | None, typer.Option("--file", "-f", help="Job file, YAML or JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field of the spec, e.g. --set optimizer.lr=1e-3."),
]
WaitsFor = Annotated[
    list[str] | None, typer.Option(help="Id of a job that must succeed first; may be repeated.")
]
Label = Annotated[
    list[str] | None, typer.Option(help="key=value to find the job by; may be repeated.")
]


def send(
    spec: Tree,
    waits_for: WaitsFor = None,
    label: Label = None,
    owner: Annotated[str, typer.Option(help="Whose job it is, as in jobs ls --owner.")] = "",
    priority: Annotated[int, typer.Option(help="Higher runs first.")] = 0,
    max_attempts: Annotated[
        int, typer.Option(min=0, help="Attempts in all; 0 takes the server's number.")
    ] = 0,
    request_id: Annotated[
        str | None, typer.Option(help="Makes a retry of this command safe.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the job to its end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Submit a spec and say how it goes on, or follow the job to its end."""
    with connect() as client:
        job = client.jobs.submit(
            spec,
            waits_for=waits_for or (),
            labels=labels(label),
            owner=owner,
            priority=priority,
            max_attempts=max_attempts,
            request_id=request_id,
        )
        for warning in () if as_json else job.warnings:
            errors.print(Text(warnings_text([warning]), style="yellow"), soft_wrap=True)
        if job.field_sources and not as_json:
            errors.print(
                field_sources_text(job.field_sources, preset_of(job), show_all(job.id)),
                highlight=False,
                soft_wrap=not errors.is_terminal,
            )
        if watch:
            follow(client, job.id, as_json, job.field_sources)
        elif as_json:
            print_json(job)
        else:
            say(f"{job.id} {job.state}; saeserve jobs watch {job.id}")


def labels(texts: list[str] | None) -> dict[str, str]:
    """Labels from texts such as team=vision. Raises InvalidArgumentError for another form."""
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise refused(f"--label {text}: write it as key=value", field="labels")
        found[key] = value
    return found
