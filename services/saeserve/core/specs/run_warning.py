"""A warning about a training run."""

from __future__ import annotations

from pydantic import Field

from saeserve.core.specs.base import Spec


class RunWarning(Spec):
    """Something that a reader of a run's results must know; `code` is stable."""

    code: str = Field(min_length=1)
    message: str


class JobWarning(RunWarning):
    """A warning about a job's training run; of a sweep about one member, or all of them."""

    member: str = ""
    """Name of the model that it is about; empty when about all of the job."""
