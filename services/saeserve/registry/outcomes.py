"""What jobs came to, as far as readers of their outputs must know: from the store's results.

A model version, a data set or an export that a job made exists for readers once the job's result
names it: a cancelled or failed job has made nothing.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from saeserve.platform.store import ArtifactStore
from saeserve.registry.stored import read_stored


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Named(_Read):
    """One output, named in the field of its kind."""

    model: str = ""
    dataset: str = ""
    exported: str = ""


class _Why(_Read):
    message: str = ""


class Outcome(_Read):
    """The part of `jobs/<id>/result.json` that says what the job made."""

    epoch: int
    state: str
    outputs: tuple[_Named, ...] = ()
    failure: _Why | None = None

    @property
    def made(self) -> tuple[_Named, ...]:
        """Its outputs, if it succeeded."""
        return self.outputs if self.state == "SUCCEEDED" else ()

    def names_model(self, resource: str) -> bool:
        """Whether it made the version of this resource name."""
        return any(each.model == resource for each in self.made)

    def names_dataset(self, name: str) -> bool:
        """Whether it made the data set."""
        return any(each.dataset == name for each in self.made)

    def why(self, job: str) -> str:
        """Why there is nothing that it made, as a sentence."""
        return self.failure.message if self.failure else f"job {job} is {self.state}"


class JobDocument(_Read):
    """The part of `jobs/<id>/job.json` that says what the job was to make."""

    kind: str
    resolved_spec: dict[str, Any]


def outcome_of(store: ArtifactStore, job: str) -> Outcome | None:
    """The committed result of `job`; None while it has none. Raises DamagedError."""
    return read_stored(store, f"jobs/{job}/result.json", Outcome)


def job_of(store: ArtifactStore, job: str) -> JobDocument | None:
    """What was submitted; None when the store does not hold the job. Raises DamagedError."""
    return read_stored(store, f"jobs/{job}/job.json", JobDocument)


def is_live(store: ArtifactStore, job: str) -> bool:
    """Whether the job was neither ended nor deleted. Raises DamagedError."""
    return outcome_of(store, job) is None and job_of(store, job) is not None
