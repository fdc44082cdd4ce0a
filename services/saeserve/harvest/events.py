"""What a harvest tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve.core.formats.manifest import DatasetManifest


@dataclass(frozen=True)
class HarvestResolved:
    """The language model is read, and gives the tokens of a context that the spec leaves open."""

    context_length: int


@dataclass(frozen=True)
class HarvestProgress:
    """Rows that exist so far, of all that the texts give, and the rate of this run."""

    rows_done: int
    rows_total: int
    tokens_per_second: float


@dataclass(frozen=True)
class HarvestStopped:
    """The harvest was asked to stop; its whole shards stay and the next run goes on there."""

    rows_done: int
    rows_total: int


@dataclass(frozen=True)
class HarvestFinished:
    """Every row is on disk. The manifest has not been written: the caller commits it."""

    manifest: DatasetManifest


HarvestEvent = HarvestResolved | HarvestProgress | HarvestStopped | HarvestFinished
