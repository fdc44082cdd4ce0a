"""`saeserve plan`: what a job would take, before it is submitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from saeserve.cli import specs
from saeserve.cli.field_sources import field_sources_text, preset_of
from saeserve.cli.figures import duration, size
from saeserve.cli.joining import joined
from saeserve.cli.output import Json, connect, console, errors, print_json, styled, warnings_text
from saeserve.cli.refusals import refused
from saeserve.cli.sending import File, Set, WaitsFor
from saeserve.cli.specs import Tree
from saeserve.cli.submit import MAKERS
from saeserve.cli.tables import print_fields, print_table
from saeserve.client.plans import Plan, Refusal

_PARTS = {
    "parameter": "parameters",
    "optimizer": "optimiser",
    "gradient": "gradients",
    "step": "activations and other temporaries of a step",
    "data": "rows shuffled and read ahead",
    "base": "interpreter and libraries",
}


def show_plan(spec: Tree, waits_for: WaitsFor = None, as_json: Json = False) -> None:
    """Show what the job would take, with every default filled in; records nothing.

    Raises typer.Exit(1) where it would be refused.
    """
    with connect() as client:
        job, planned = client.jobs.plan(spec, waits_for=waits_for or ())
    if as_json:
        print_json({"resolved_spec": job.resolved_spec, "plan": planned})
    else:
        _print(planned, preset_of(job))
        print_json(job.resolved_spec)
    if planned.refusal is not None:
        _print_refusal(planned.refusal)
        raise typer.Exit(1)


def of_file(
    job_file: Annotated[Path | None, typer.Argument(help="Job file, YAML or JSON.")] = None,
    file: File = None,
    set_: Set = None,
) -> Tree:
    """A job of any kind, from a file: saeserve plan job.yaml, or saeserve plan -f job.yaml."""
    path = job_file or file
    if path is None or (job_file and file):
        raise refused("give one job file: saeserve plan -f job.yaml", field="file")
    return specs.build(specs.kind_of(path), path, {}, set_ or [])


class _KindOrFile(TyperGroup):
    """Takes what does not begin with a kind of job as the name of a file, or its flags."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        begins = args[:1]
        if begins and begins[0] not in self.commands and begins[0] not in ("-h", "--help"):
            args = [FILE, *args]
        return super().parse_args(ctx, args)


FILE = "file"

app = typer.Typer(
    cls=_KindOrFile,
    no_args_is_help=True,
    help="Show what a job would take, with every default filled in; records nothing. Exit code 1 "
    "where the job would be refused.",
)
for _kind, _make in MAKERS.items():
    app.command(_kind)(joined(_make, show_plan))
app.command(FILE)(joined(of_file, show_plan))


def _print(planned: Plan, preset: str) -> None:
    print_fields(
        [
            ("parameters", f"{planned.parameters:,}"),
            ("memory", _memory(planned.memory_bytes, planned.machine_memory_bytes)),
            ("host memory", _memory(planned.host_memory_bytes, planned.machine_host_memory_bytes)),
            ("disk", size(planned.disk_bytes)),
            ("steps", f"{planned.steps:,}"),
            ("speed", _speed(planned)),
            ("time", _time(planned)),
            ("models", "\n".join(planned.models)),
            ("not given", _not_given(planned, preset)),
            ("notes", "\n".join(planned.notes)),
            ("warnings", warnings_text(planned.warnings)),
        ]
    )
    _print_memory("memory", planned.memory, planned.peaks)
    _print_memory("host memory", planned.host_memory, planned.host_peaks)


def _print_memory(name: str, parts: Mapping[str, int], peaks: Mapping[str, int]) -> None:
    if parts:
        print_table((name, "held by"), _parts(parts))
        print_table(("at most", "during"), ((size(n), what) for what, n in peaks.items()))


def _not_given(planned: Plan, preset: str) -> str:
    return field_sources_text(planned.field_sources, preset, "see the spec below")


def _memory(needed: int | None, machine: int | None) -> str:
    if needed is None:
        return ""
    most = f"{size(needed)} at most"
    return most if machine is None else f"{most} of {size(machine)}"


def _speed(planned: Plan) -> str:
    rate = planned.tokens_per_second
    return "" if rate is None else f"about {rate:,.0f} tokens/s"


def _time(planned: Plan) -> str:
    return "" if planned.seconds is None else f"about {duration(planned.seconds)} of training steps"


def _parts(memory: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    return ((size(count), _PARTS.get(part, part)) for part, count in memory.items())


def _print_refusal(refusal: Refusal) -> None:
    console.file.flush()
    errors.print(styled("red", refusal.code, f": {refusal.message} — {refusal.remedy}"))
