"""A sweep: several training runs that take turns on the same rows, each read and prepared once.

Every member is a `Trainer` as it would be alone, and so are its bits. A turn is a few steps; where
somebody looks (report, checkpoint, end) all members stand at the same step. A member that diverges
ends, its memory is freed, and the others go on; only when the last one diverges does the sweep. One
checkpoint holds all: a folder a member, and `sweep.json`, which names the members that diverged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from saeserve.core.data.prepared import PreparedRows
from saeserve.core.specs.base import Spec
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.events import (
    CheckpointCommitted,
    Diverged,
    Finished,
    MetricsReported,
    Stopped,
    Warned,
)
from saeserve.core.training.reports import Cadence
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import CheckpointSink, Trainer
from saeserve.errors import CheckpointError, DivergedError

FORMAT_VERSION = 1
SWEEP_FILE = "sweep.json"
HELD_BYTES = 2**24
"""Bytes of prepared rows that are held at a time, unless one batch has more."""

Setups = Mapping[str, TrainingSetup]
"""Setup of each member by its name, in order. All take their rows from one `PreparedRows`, and have
the same number of steps, batch and cadence."""


@dataclass(frozen=True)
class OfMember:
    """What one member tells."""

    member: str
    event: MetricsReported | Warned | Diverged


SweepEvent = OfMember | Warned | CheckpointCommitted | Stopped | Finished


class Lost(Spec):
    """A member that diverged, in `sweep.json`."""

    step: int
    code: str
    message: str
    remedy: str


class SweepHeader(Spec):
    """What `sweep.json` holds."""

    format_version: int
    step: int
    members: tuple[str, ...]
    lost: dict[str, Lost]


class Sweep:
    """The members that train; made by `start` or `resume`."""

    def __init__(
        self,
        rows: PreparedRows,
        setups: Setups,
        trainers: dict[str, Trainer],
        lost: dict[str, Lost],
    ) -> None:
        """Use `start` or `resume`."""
        self.rows = rows
        """What all members read."""
        self._names = tuple(setups)
        self._spec: TrainSpec = next(iter(setups.values())).spec
        self._trainers = trainers
        self._lost = lost
        self.step = next(iter(trainers.values())).step
        """Steps that all members have done."""
        self._committed = self.step or -1
        self._lane, self._cadence = rows.waits.lane, Cadence(rows.waits.lane)
        for trainer in trainers.values():
            trainer.cadence = self._cadence

    @classmethod
    def start(cls, rows: PreparedRows, setups: Setups) -> Sweep:
        """Every member from step 0; raises what `Trainer.start` raises."""
        rows.hold(0, next(iter(setups.values())).spec.batch_size)
        return cls(rows, setups, {n: Trainer.start(s) for n, s in setups.items()}, {})

    @classmethod
    def resume(cls, rows: PreparedRows, setups: Setups, folder: Path) -> Sweep:
        """Resume from the checkpoint in `folder`; members that diverged are not resumed.

        Raises CheckpointError where the sweep or one of its members cannot be resumed.
        """
        header = _read_header(folder, tuple(setups))
        trainers = {
            name: Trainer.resume(setup, folder / name)
            for name, setup in setups.items()
            if name not in header.lost
        }
        return cls(rows, setups, trainers, dict(header.lost))

    @property
    def trainers(self) -> Mapping[str, Trainer]:
        """The members that train, by name."""
        return self._trainers

    @property
    def lost(self) -> Mapping[str, Lost]:
        """The members that diverged, by name."""
        return self._lost

    def release(self, name: str) -> Trainer | None:
        """Give a member away, so that its memory lives no longer than the caller wants it to;
        None for one that diverged."""
        return self._trainers.pop(name, None)

    def run(self, sink: CheckpointSink, stop: Callable[[], bool]) -> Iterator[SweepEvent]:
        """Train to the end, or until `stop()` is true before a step; the last event says which.

        Raises DivergedError once no member is left.
        """
        yield from self._opening()
        while self.step < self._spec.steps:
            if stop():
                yield from self._commit(sink)
                yield Stopped(self.step)
                return
            yield from self._advance()
            if self._cadence.checkpoint_due(self.step, self._spec):
                yield from self._commit(sink)
        yield Finished(self.step)

    def _opening(self) -> Iterator[Warned]:
        """What all members tell, once: it is of the job."""
        told = {warning: None for each in self._trainers.values() for warning in each.opening()}
        for each in self._trainers.values():
            # Kernels that one member refuses are refused for all.
            each.choose_precision()
        yield from told

    def _advance(self) -> Iterator[OfMember]:
        """Every member's next steps, one member after the other."""
        steps, rows = self._stretch(), self._spec.batch_size
        self.rows.hold(self.step * rows, steps * rows)
        self.step += steps
        for name, trainer in list(self._trainers.items()):
            try:
                while trainer.step < self.step:
                    for event in trainer.advance():
                        yield OfMember(name, event)
            except DivergedError as error:
                yield self._lose(name, error)

        self.rows.stepped()

    def _settle(self) -> Iterator[OfMember]:
        """Reports that have not arrived yet, and the end of those that must not be committed."""
        for name, trainer in list(self._trainers.items()):
            try:
                for event in trainer.settle():
                    yield OfMember(name, event)
                trainer.checkpoints.check_finite()
            except DivergedError as error:
                yield self._lose(name, error)

    def _stretch(self) -> int:
        """Steps that a member takes before it is the next one's turn: several, for as long its
        weights stay in the processor's caches, but none past a report or a checkpoint."""
        spec = self._spec
        ends = (spec.log_every_steps, spec.checkpoint_every_steps)
        left = min(spec.steps - self.step, *(end - self.step % end for end in ends))
        return max(1, min(left, HELD_BYTES // (4 * self.rows.d * spec.batch_size)))

    def _commit(self, sink: CheckpointSink) -> Iterator[SweepEvent]:
        if self.step == self._committed:
            return
        yield from self._settle()
        since = self._lane.mark()
        size = sink.commit(self.step, self._save)
        self._committed = self.step
        yield CheckpointCommitted(self.step, size)
        for trainer in self._trainers.values():
            trainer.pace.leave_out(since)

    def _lose(self, name: str, error: DivergedError) -> OfMember:
        """Let the member go. Raises DivergedError when it was the last."""
        del self._trainers[name]
        self._lost[name] = Lost(
            step=error.step, code=error.code, message=error.message, remedy=error.remedy
        )
        if not self._trainers:
            raise self._all_lost() from error
        return OfMember(name, Diverged(error.step, error.code, error.message, error.remedy))

    def _all_lost(self) -> DivergedError:
        told = "; ".join(f"{name}: {lost.message}" for name, lost in self._lost.items())
        first = next(iter(self._lost.values()))
        return DivergedError(self.step, f"every member diverged: {told}", remedy=first.remedy)

    def _save(self, folder: Path) -> None:
        for name, trainer in self._trainers.items():
            (folder / name).mkdir()
            trainer.checkpoints.save(folder / name)
        header = SweepHeader(
            format_version=FORMAT_VERSION, step=self.step, members=self._names, lost=self._lost
        )
        (folder / SWEEP_FILE).write_text(header.model_dump_json(indent=1), encoding="utf-8")


def _read_header(folder: Path, names: tuple[str, ...]) -> SweepHeader:
    try:
        header = SweepHeader.model_validate_json((folder / SWEEP_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise _error(folder, f"{SWEEP_FILE} cannot be read: {error}") from error
    if header.format_version != FORMAT_VERSION:
        version = header.format_version
        raise _error(folder, f"has format {version}; this release reads {FORMAT_VERSION}")
    if header.members != names:
        raise _error(folder, f"is of the members {header.members}, the job has {names}")
    return header


def _error(folder: Path, message: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {folder.name}: {message}",
        remedy="resume from an older checkpoint, or start again",
    )
