"""Texts through a data set's language model: jobs that are submitted and waited for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saeserve.client.errors import PreconditionError
from saeserve.client.jobs import Jobs
from saeserve.client.models import Models
from saeserve.client.steering import Edits
from saeserve.client.values import Job

Report = Mapping[str, Any]


def generated(
    jobs: Jobs, models: Models, model: str, prompts: Sequence[str], edits: Edits, more: Report
) -> Job:
    """The generate job, submitted; `more` are other fields of its spec."""
    spec = {"prompts": list(prompts), "edits": [dict(edit) for edit in edits], **_set(more)}
    return jobs.submit({"generate": {"model": model, **_with_dataset(models, model, spec)}})


def annotated(jobs: Jobs, models: Models, model: str, texts: Sequence[str], more: Report) -> Job:
    """The annotate job, submitted; `more` are other fields of its spec."""
    spec = {"texts": list(texts), **_set(more)}
    return jobs.submit({"annotate": {"model": model, **_with_dataset(models, model, spec)}})


def outcome(job: Job) -> Job:
    """The job, if it has succeeded. Raises PreconditionError with the reason why it has not."""
    if job.state == "SUCCEEDED":
        return job
    why, remedy = f"it was {job.state.lower()}", ""
    if job.error is not None:
        why, remedy = job.error.message, job.error.remedy
    raise PreconditionError(
        f"job {job.id} made nothing: {why}", reason="JOB_FAILED", field="job", remedy=remedy
    )


def _set(more: Report) -> dict[str, Any]:
    return {name: value for name, value in more.items() if value is not None}


def _with_dataset(models: Models, model: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with its data set: as given, else that which the model was trained on."""
    if "dataset" in spec:
        return spec
    found = models.get(model).dataset
    if not found:
        raise PreconditionError(
            f"{model} does not say on which data set it was trained",
            reason="NO_DATASET",
            field="dataset",
            remedy="name a harvested data set, whose language model is to run",
        )
    return {**spec, "dataset": found}
