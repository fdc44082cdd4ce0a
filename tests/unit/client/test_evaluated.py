"""The newest evaluation of a model version, by what the evaluation says it is of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from saeserve.client.evaluated import newest_evaluation
from saeserve.client.jobs import Jobs
from saeserve.client.values import Job, job_value
from saeserve.v1 import job_pb2

FIRST, SECOND = "models/sae/versions/1", "models/sae/versions/2"


class _Jobs:
    """Newest first, as control lists them."""

    def __init__(self, *jobs: Job) -> None:
        self._jobs = jobs

    def list(self, **_: Any) -> Iterator[Job]:  # noqa: ANN401 - of the SDK
        return iter(self._jobs)

    def get(self, job: str) -> Job:
        return next(each for each in self._jobs if each.id == job)


def _job(name: str, spec_model: str, *evaluated: str) -> Job:
    message = job_pb2.Job(id=name)
    message.resolved_spec.evaluate.model = spec_model
    for model in evaluated:
        message.outputs.add().evaluation.CopyFrom(
            job_pb2.EvaluationReport(model=model, metrics={"fvu": len(model) / 100})
        )
    return job_value(message)


def _found(resource: str, *jobs: Job) -> tuple[str, str] | None:
    found = newest_evaluation(cast(Jobs, _Jobs(*jobs)), resource)
    return None if found is None else (found[0], (found[1].evaluation or {})["model"])


def test_a_job_that_waited_for_the_training_has_only_a_name_in_its_spec() -> None:
    jobs = (_job("new", "sae", SECOND), _job("old", "sae", FIRST))
    assert _found(FIRST, *jobs) == ("old", FIRST)
    assert _found(SECOND, *jobs) == ("new", SECOND)


def test_a_job_of_several_models_has_the_one_asked_for() -> None:
    assert _found(SECOND, _job("both", FIRST, FIRST, SECOND)) == ("both", SECOND)
    assert _found("models/sae/versions/3", _job("both", FIRST, FIRST, SECOND)) is None


def test_evaluations_of_older_releases_are_those_of_their_spec() -> None:
    assert _found(FIRST, _job("older", FIRST, "")) == ("older", "")
    assert _found(SECOND, _job("older", FIRST, "")) is None
