"""What is known of every kind of job by its spec alone."""

from __future__ import annotations

from saeserve.core.specs.base import Spec


class KindSpec(Spec):
    """Base of the kinds' specs. The defaults are those of a job that makes nothing."""

    @property
    def makes_dataset(self) -> str:
        """Name of the data set that the job makes READY; empty for none."""
        return ""

    @property
    def l0_by_model(self) -> dict[str, float | None]:
        """The models that the job publishes, by name, and the mean L0 that each was asked for;
        None where it was asked for none."""
        return {}

    @property
    def publishes(self) -> tuple[str, ...]:
        """Names of the models of which the job publishes a version."""
        return tuple(self.l0_by_model)
