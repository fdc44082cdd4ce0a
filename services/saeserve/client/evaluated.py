"""What evaluate jobs found of a model, newest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from saeserve.client.jobs import Jobs
from saeserve.client.values import Job, JobOutput

LOOKED_AT = 200
"""Newest evaluations among which that of a model is looked for."""


def newest_evaluation(jobs: Jobs, resource: str) -> tuple[str, JobOutput] | None:
    """The newest evaluation of a version (models/<name>/versions/<n>) that the caller may see, and
    its job; None where there is none to be found.

    >>> found = newest_evaluation(client.jobs, client.models.get("my-sae").resource)

    The evaluation itself says what it is of: the spec of a job that waited for the training has
    only the name that it was submitted with. Those of older releases say nothing, and then the
    spec counts.
    """
    listed = jobs.list(kinds=["evaluate"], states=["SUCCEEDED"])
    for job in islice(listed, LOOKED_AT):
        if any(_outputs_of(job, resource)):
            # Listings leave out the figures with intervals.
            return job.id, next(_outputs_of(jobs.get(job.id), resource))
    return None


def _outputs_of(job: Job, resource: str) -> Iterator[JobOutput]:
    spec: Mapping[str, Any] = job.resolved_spec.get("evaluate", {})
    for output in job.outputs:
        if output.evaluation is not None:
            named = output.evaluation.get("model") or spec.get("model")
            if named == resource:
                yield output
