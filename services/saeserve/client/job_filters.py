"""Which jobs a listing is to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saeserve.client.errors import InvalidArgumentError
from saeserve.v1 import job_pb2, job_service_pb2


def job_filter(
    states: Sequence[str], kinds: Sequence[str], owner: str, labels: Mapping[str, str]
) -> job_service_pb2.JobFilter:
    """The API's filter. Raises InvalidArgumentError for a state that there is not."""
    return job_service_pb2.JobFilter(
        states=[_state(name) for name in states], kinds=kinds, owner=owner, labels=labels
    )


def _state(name: str) -> job_pb2.JobState.ValueType:
    try:
        return job_pb2.JobState.Value(f"JOB_STATE_{name.upper()}")
    except ValueError as error:
        known = ", ".join(key.removeprefix("JOB_STATE_") for key in job_pb2.JobState.keys()[1:])
        raise InvalidArgumentError(
            f"no job state is called {name!r}",
            reason="BAD_STATE",
            field="states",
            remedy=f"use one of {known}",
        ) from error
