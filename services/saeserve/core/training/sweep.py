"""A sweep: several training runs that take turns on the same rows, each read and prepared once.

Every member is a `Trainer` as it would be alone, and so are its bits. A turn is a few steps; where
somebody looks (report, checkpoint, end) all members stand at the same step. A member that diverges
ends, its memory is freed, and the others go on; only when the last one diverges does the sweep. One
checkpoint holds all (`sweep_checkpoint`); on an accelerator it is written while all train on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from saeserve.core.data.prepared import PreparedRows
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
from saeserve.core.training.saving import Copied, Writing
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.sweep_checkpoint import SWEEP_FILE as SWEEP_FILE
from saeserve.core.training.sweep_checkpoint import CopiedSweep, SweepHeader, read_header
from saeserve.core.training.sweep_checkpoint import Lost as Lost
from saeserve.core.training.trainer import CheckpointSink, Trainer
from saeserve.errors import DivergedError

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
        self._writing = Writing()
        self._copied: CopiedSweep | None = None
        self._lane, self._cadence = rows.waits.lane, Cadence(rows.waits.lane)
        recorder = next(iter(trainers.values())).stepper.recorder
        for trainer in trainers.values():
            trainer.cadence = self._cadence
            # They take turns, so their graphs take turns in one memory.
            trainer.stepper.recorder = recorder

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
        header = read_header(folder, tuple(setups))
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

    def run(self, sink: CheckpointSink, stop: Callable[[], bool]) -> Generator[SweepEvent]:
        """Train to the end, or until `stop()` is true before a step; the last event says which.
        Whoever leaves earlier closes the generator, which waits for a checkpoint being written.

        Raises DivergedError once no member is left.
        """
        try:
            yield from self._opening()
            while self.step < self._spec.steps:
                if stop():
                    yield from self._commit(sink, last=True)
                    yield Stopped(self.step)
                    return
                yield from self._advance()
                yield from self._finished(wait=False)
                if self._cadence.checkpoint_due(self.step, self._spec):
                    yield from self._commit(sink, last=self.step == self._spec.steps)
            yield Finished(self.step)
        finally:
            for trainer in self._trainers.values():
                trainer.stepper.release()
            self._writing.leave()

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
        """Reports that have not arrived yet, and the end of members whose loss is not finite."""
        for name, trainer in list(self._trainers.items()):
            try:
                for event in trainer.settle():
                    yield OfMember(name, event)
            except DivergedError as error:
                yield self._lose(name, error)

    def _check_finite(self) -> Iterator[OfMember]:
        """The end of members that must not be committed."""
        for name, trainer in list(self._trainers.items()):
            try:
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

    def _commit(self, sink: CheckpointSink, *, last: bool) -> Iterator[SweepEvent]:
        """Commit all members' states, after all reports that lead to them: see
        `saving.Checkpoints.commit`, which decides alike for one run."""
        if self.step == self._committed:
            return
        yield from self._settle()
        since = self._lane.mark()
        states = [trainer.state for trainer in self._trainers.values()]
        if last or not self._lane.asynchronous or not Copied.fits(self._lane, states):
            yield from self._finished(wait=True)
            yield from self._commit_now(sink)
        elif not self._writing.busy:
            self._begin(sink)
        for trainer in self._trainers.values():
            trainer.pace.leave_out(since)

    def _commit_now(self, sink: CheckpointSink) -> Iterator[SweepEvent]:
        if self.step == self._committed:
            return
        yield from self._check_finite()
        size = sink.commit(self.step, self._save)
        self._committed = self.step
        yield CheckpointCommitted(self.step, size)

    def _begin(self, sink: CheckpointSink) -> None:
        """Have a thread commit copies of all members."""
        members = {name: each.checkpoints.copied() for name, each in self._trainers.items()}
        copied = CopiedSweep(SweepHeader.of(self.step, self._names, self._lost), members)
        step, self._copied = self.step, copied
        self._writing.begin(step, lambda: sink.commit(step, copied.write))

    def _finished(self, *, wait: bool) -> Iterator[SweepEvent]:
        """What a thread committed since, waiting for it if asked to, after the end of the members
        that it found not to be finite."""
        try:
            committed = list(self._writing.finished(wait=wait))
        except DivergedError:
            committed = list[CheckpointCommitted]()  # no member was finite: all of them end below
        if self._writing.busy or self._copied is None:
            return
        copied, self._copied = self._copied, None
        for name, error in copied.diverged.items():
            if name in self._trainers:
                yield self._lose(name, error)
        for event in committed:
            self._committed = event.step
            yield event

    def _lose(self, name: str, error: DivergedError) -> OfMember:
        """Let the member go. Raises DivergedError when it was the last."""
        del self._trainers[name]
        self._lost[name] = Lost.by(error)
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
        SweepHeader.of(self.step, self._names, self._lost).write(folder)
