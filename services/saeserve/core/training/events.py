"""What a training run tells, as values; the worker turns them into metrics and job events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricsReported:
    """Averages over the steps since the last report (docs/DESIGN.md, "Definitions" defines each).

    `values`: loss, loss_<term>, fvu, l0, grad_norm (before clipping), tokens_per_second,
    data_wait_fraction (of the time), and as they stand now: dead (latents), lr, and each of the
    architecture's schedules by its name.
    """

    step: int
    """Steps done."""
    tokens: int
    values: dict[str, float]


@dataclass(frozen=True)
class CheckpointCommitted:
    """The state after `step` steps is safe."""

    step: int
    size_bytes: int


@dataclass(frozen=True)
class Warned:
    """Something that a reader of the results should know; `code` is stable."""

    step: int
    code: str
    message: str


@dataclass(frozen=True)
class Diverged:
    """A member of a sweep left the finite numbers and trains no more; as in DivergedError."""

    step: int
    code: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Stopped:
    """The run was asked to stop and did, after a checkpoint of `step`."""

    step: int


@dataclass(frozen=True)
class Finished:
    """All steps are done and the last state is in a checkpoint."""

    step: int


TrainingEvent = MetricsReported | CheckpointCommitted | Warned | Stopped | Finished
