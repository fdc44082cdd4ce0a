"""One job in full, on the terminal."""

from __future__ import annotations

from saeserve.cli.field_sources import field_sources_text, preset_of
from saeserve.cli.output import (
    ago,
    console,
    errors,
    metrics_text,
    print_fields,
    print_json,
    print_table,
    styled,
    warnings_text,
)
from saeserve.client.values import Job, JobFailure

COMPARED = ("fvu", "l0", "l0_miss", "dead_fraction", "silent_on_heldout")
"""What tells the members of a sweep apart; the rest is in the JSON."""
_LISTED = 3


def show_job(job: Job, as_json: bool) -> None:
    """One job in full."""
    if as_json:
        print_json(job)
        return
    print_fields(
        [
            ("id", job.id),
            ("kind", job.kind),
            ("state", job.state),
            ("step", step_text(job)),
            ("attempt", f"{job.attempt} of {job.max_attempts}"),
            ("created", ago(job.created)),
            ("waits for", ", ".join(job.waits_for)),
            ("metrics", metrics_text(job.progress.metrics)),
            ("made", made(job)),
            ("not given", field_sources_text(job.field_sources, preset_of(job))),
            ("warnings", warnings_text(job.warnings)),
        ]
    )
    _show_members(job)
    if job.error is not None:
        _show_error(job.error.code, job.error)


def step_text(job: Job) -> str:
    """How far it is; empty while that is unknown."""
    if not job.progress.total_steps:
        return ""
    return f"{job.progress.step:,}/{job.progress.total_steps:,} {job.progress.unit}"


def made(job: Job) -> str:
    """What it made, by name as long as that is short."""
    names = [output.model or output.dataset or output.exported for output in job.outputs]
    told = ", ".join(name or "evaluation" for name in names)
    told = f"{len(names)} models" if len(names) > _LISTED else told
    lost = len(job.member_errors)
    return f"{told}; {lost} diverged" if lost else told


def _show_members(job: Job) -> None:
    """Figures of what was made: a table where it is several models."""
    if len(job.outputs) + len(job.member_errors) > 1:
        print_table(
            ("model", *COMPARED),
            (
                (output.model, *(_figure(output.metrics.get(name)) for name in COMPARED))
                for output in job.outputs
            ),
        )
    else:
        for output in job.outputs:
            console.print(metrics_text(output.metrics), highlight=False)
    for name, error in job.member_errors.items():
        _show_error(name, error)


def _show_error(what: str, error: JobFailure) -> None:
    errors.print(styled("red", what, f": {error.message}"))
    errors.print(error.remedy)


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
