"""One job in full, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from saeserve.cli.describing import described, made, step_text
from saeserve.cli.evaluated import print_evaluation
from saeserve.cli.field_sources import field_sources_text, given_text, preset_of
from saeserve.cli.figures import ago, duration, figure, listed, metrics_text
from saeserve.cli.output import errors, print_json, say, styled, warnings_text
from saeserve.cli.tables import print_fields, print_table
from saeserve.client.field_sources import FieldSource
from saeserve.client.values import Job, JobFailure, JobOutput

COMPARED = ("fvu", "l0", "l0_miss", "dead_fraction", "silent_on_heldout")
"""What tells the members of a sweep apart; the rest is in the JSON."""


def show_job(
    job: Job, as_json: bool, shown: Sequence[FieldSource] = (), every_field: bool = False
) -> None:
    """One job in full; of its field sources, as text, those that were not `shown` before, and
    those that have their default only for `every_field`."""
    if as_json:
        print_json(job)
        return
    not_given = [each for each in job.field_sources if each not in shown]
    print_fields(
        [
            ("id", job.id),
            ("job", described(job)),
            ("state", state_text(job)),
            ("waits", job.waiting.reason if job.waiting else ""),
            ("came back", job.waiting.returned if job.waiting else ""),
            ("step", step_text(job)),
            ("attempt", f"{job.attempt} of {job.max_attempts}"),
            ("class", job.resource_class),
            ("priority", job.priority or ""),
            ("owner", job.owner),
            ("labels", listed(f"{name}={value}" for name, value in job.labels.items())),
            ("created", ago(job.created)),
            ("took", _took(job)),
            ("waits for", listed(job.waits_for)),
            ("last report", _last_report(job)),
            ("made", made(job)),
            ("given", "" if shown else given_text(job)),
            (
                "not given",
                field_sources_text(
                    not_given, preset_of(job), "" if every_field else show_all(job.id)
                ),
            ),
            ("warnings", warnings_text(job.warnings)),
        ]
    )
    _show_members(job)
    if job.error is not None:
        _show_error(job.error.code, job.error)


def show_all(job: str) -> str:
    """The command that names every field of a job."""
    return f"saeserve jobs show {job} --all"


def state_text(job: Job) -> Text:
    """The state, in the colour of what it means."""
    colours = {"SUCCEEDED": "green", "FAILED": "red", "CANCELLED": "yellow", "RUNNING": "cyan"}
    return styled(colours.get(job.state, "none"), job.state)


def _last_report(job: Job) -> str:
    """The latest figures, unless they are those of what was made, which stand below."""
    if any(output.metrics == job.progress.metrics for output in job.outputs):
        return ""
    return metrics_text(job.progress.metrics)


def _took(job: Job) -> str:
    """From the start of the first attempt to the end."""
    if job.started is None or job.ended is None:
        return ""
    return duration((job.ended - job.started).total_seconds())


def _show_members(job: Job) -> None:
    """Figures of what was made: a table where it is several models."""
    if len(job.outputs) + len(job.member_errors) > 1:
        print_table(
            ("model", *COMPARED),
            (
                (_name(output), *(_figure(output.metrics.get(name)) for name in COMPARED))
                for output in job.outputs
            ),
        )
    else:
        for output in job.outputs:
            # What follows as a table need not stand in a line as well.
            if output.metrics and not output.results:
                say(f"figures of {_name(output)}: {metrics_text(output.metrics)}")
    for output in job.outputs:
        print_evaluation(output, f"figures of {_name(output)}")
    for name, error in job.member_errors.items():
        _show_error(name, error)


def _name(output: JobOutput) -> str:
    evaluated = output.evaluation.get("model") if output.evaluation else ""
    return output.model or output.dataset or output.exported or evaluated or "evaluation"


def _show_error(what: str, error: JobFailure) -> None:
    whole = not errors.is_terminal
    errors.print(styled("red", what, f": {error.message}"), soft_wrap=whole)
    if error.remedy:
        errors.print(error.remedy, highlight=False, soft_wrap=whole)


def _figure(value: float | None) -> str | None:
    return None if value is None else figure(value)
