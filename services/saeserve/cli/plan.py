"""`saeserve plan`: what a job would take, before it is submitted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from saeserve.cli import specs
from saeserve.cli.field_sources import field_sources_text, preset_of
from saeserve.cli.output import (
    Json,
    connect,
    console,
    duration,
    errors,
    print_fields,
    print_json,
    print_table,
    size,
    styled,
    warnings_text,
)
from saeserve.cli.sending import Set
from saeserve.client.plans import Plan, Refusal

_PARTS = {
    "parameter": "parameters",
    "optimizer": "optimiser",
    "gradient": "gradients",
    "step": "activations and other temporaries of a step",
    "data": "rows shuffled and read ahead",
    "base": "interpreter and libraries",
}


def plan(
    file: Annotated[Path, typer.Argument(help="Job file, YAML or JSON.")],
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Show what a job would take, with every default filled in; records nothing.

    Exit code 1 where the job would be refused.
    """
    kind = next(iter(specs.read_file(file)), "")
    with connect() as client:
        job, planned = client.jobs.plan(specs.build(kind, file, {}, set_ or []))
    if as_json:
        print_json({"resolved_spec": job.resolved_spec, "plan": planned})
    else:
        _print(planned, preset_of(job))
        print_json(job.resolved_spec)
    if planned.refusal is not None:
        _print_refusal(planned.refusal)
        raise typer.Exit(1)


def _print(planned: Plan, preset: str) -> None:
    print_fields(
        [
            ("parameters", f"{planned.parameters:,}"),
            ("memory", _memory(planned)),
            ("disk", size(planned.disk_bytes)),
            ("steps", f"{planned.steps:,}"),
            ("speed", _speed(planned)),
            ("time", _time(planned)),
            ("models", "\n".join(planned.models)),
            ("not given", field_sources_text(planned.field_sources, preset)),
            ("notes", "\n".join(planned.notes)),
            ("warnings", warnings_text(planned.warnings)),
        ]
    )
    if planned.memory:
        print_table(("memory", "held by"), _parts(planned))
        print_table(("at most", "during"), ((size(n), what) for what, n in planned.peaks.items()))


def _memory(planned: Plan) -> str:
    told = f"{size(planned.memory_bytes)} at most"
    if planned.machine_memory_bytes is None:
        return told
    return f"{told} of {size(planned.machine_memory_bytes)}"


def _speed(planned: Plan) -> str:
    rate = planned.tokens_per_second
    return "" if rate is None else f"about {rate:,.0f} tokens/s"


def _time(planned: Plan) -> str:
    return "" if planned.seconds is None else f"about {duration(planned.seconds)} of training steps"


def _parts(planned: Plan) -> Iterator[tuple[str, str]]:
    return ((size(count), _PARTS.get(part, part)) for part, count in planned.memory.items())


def _print_refusal(refusal: Refusal) -> None:
    console.file.flush()
    errors.print(styled("red", refusal.code, f": {refusal.message} — {refusal.remedy}"))
