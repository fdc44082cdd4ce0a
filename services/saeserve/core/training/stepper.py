"""Takes the steps of a run: each operation by itself, or as a recording of a step like it.

Steps are alike that do the same operations on the same memory (`Recordable`). The first WARM of a
kind are done as they are, the last of those on the memory that recordings read; then the kind is
recorded, and from then on the host writes its numbers, copies the rows and starts the recording.
The bits are those of a run without recordings, which is seen once for each (`recording_check`).
Where one cannot be made, or does something else, the run goes on without.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import Batch, Context, Control, Recordable
from saeserve.core.architectures.registry import architecture_of
from saeserve.core.data.lane import Lane
from saeserve.core.ops.update import Optimizer, rates
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training import dead
from saeserve.core.training.events import Warned
from saeserve.core.training.recording import Recorder, Recording, recorder_to
from saeserve.core.training.recording_check import After, Before
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.state import TrainerState
from saeserve.core.training.step import Done, compute_, conclude_

_log = logging.getLogger(__name__)
WARM = 3
"""Steps of a kind until it is recorded: kernels are compiled and copies of weights made by then."""
MOST = 8
"""Recordings that are kept, and so many times as many kinds are counted."""


class Stepper:
    """Takes the steps of one run."""

    def __init__(self, setup: TrainingSetup, state: TrainerState, lane: Lane) -> None:
        """Steps are recorded where the setup says so, on a device that goes on by itself."""
        wanted = setup.graphs and lane.asynchronous
        self.recorder = setup.recorder or recorder_to(setup.device) if wanted else None
        """What records them, one for all runs that take turns."""
        self.replays = 0
        """Steps that were started as recordings."""
        self._spec, self._state = setup.spec, state
        self._architecture: Architecture[Any] = architecture_of(setup.spec)
        self._seen: OrderedDict[Hashable, int] = OrderedDict()
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._warnings: list[Warned] = []

    def take(self, batches: Iterator[Batch], ctx: Context, optimizer: Optimizer) -> Done:
        """Move the state by one step on `batches`, micro-batches of equal size."""
        spec = self._spec.architecture
        known = self._recordable(ctx)
        if known is None:
            done = compute_(self._architecture, spec, self._state, batches, ctx, optimizer)
        else:
            done = self._alike(*known, batches, ctx, optimizer)
        conclude_(self._architecture, spec, self._state, done)
        return done

    def warnings(self) -> Iterator[Warned]:
        """What happened since the last call that a reader should know."""
        found, self._warnings = self._warnings, []
        yield from found

    def release(self) -> None:
        """Let go of all recordings and of the memory that they hold."""
        self._recordings.clear()
        self._seen.clear()

    def _recordable(self, ctx: Context) -> tuple[Inputs, Hashable, Recordable] | None:
        """The step's kind and what it depends on, where that kind has come often enough."""
        recorder = self.recorder
        if recorder is None or not recorder.takes(self._state.params):
            return None
        known = self._architecture.recordable(self._spec.architecture, ctx)
        if known is None or not self._often(kind := _kind(known, self._state)):
            return None
        return Inputs(recorder), kind, known

    def _often(self, kind: Hashable) -> bool:
        """Count a step of this kind; whether there were enough."""
        count = self._seen[kind] = self._seen.pop(kind, 0) + 1
        if len(self._seen) > MOST * MOST:
            self._seen.popitem(last=False)
        return count >= WARM

    def _alike(
        self,
        inputs: Inputs,
        kind: Hashable,
        known: Recordable,
        batches: Iterator[Batch],
        ctx: Context,
        optimizer: Optimizer,
    ) -> Done:
        """A step whose inputs lie where recordings read them."""
        rows = inputs.rows(batches)
        frozen = inputs.context(known, ctx.control)
        at_rates = inputs.rates(optimizer, ctx.step)
        if (recording := self._recordings.get(kind)) is not None:
            self._recordings.move_to_end(kind)
            self.replays += 1
            return recording.replay()
        # Of no tensor or recording of this object, which would keep itself alive.
        run = (self._architecture, self._spec, self._state)
        work = partial(_work, *run, rows, frozen, at_rates)
        return self._recorded(inputs.recorder, kind, work)

    def _recorded(self, recorder: Recorder, kind: Hashable, work: Callable[[], Done]) -> Done:
        """Do a step, record it, and see that the recording does the same."""
        try:
            before = Before(self._state)
        except torch.OutOfMemoryError as error:
            self._give_up(error)
            return work()
        done = work()
        try:
            wanted = After(self._state, done)
            recording = recorder.record(work, self._state)
            before.restore()
            wanted.require(After(self._state, recording.replay()))
        except Exception as error:
            self._give_up(error)
            before.restore()
            return work()
        self._recordings[kind] = recording
        if len(self._recordings) > MOST:
            self._recordings.popitem(last=False)
        return done

    def _give_up(self, error: Exception) -> None:
        """Take all steps that are left one operation after the other."""
        self.release()
        self.recorder = None
        why = f"{type(error).__name__}: {error}"
        message = f"steps are not recorded as graphs, so the host may be slower: {why}"
        self._warnings.append(Warned(self._state.step, "GRAPHS_OFF", message))
        _log.warning("%s", message, exc_info=error)


@dataclass(frozen=True)
class Inputs:
    """Writes what changes from step to step where recordings read it."""

    recorder: Recorder

    def rows(self, batches: Iterator[Batch]) -> tuple[Batch, ...]:
        """Micro-batches of the same contents."""
        return tuple(self._batch(number, batch) for number, batch in enumerate(batches))

    def context(self, known: Recordable, control: Control | None) -> Context:
        """The context, whose tensors are in memory but for `dead_F`, which is recorded."""
        numbers = {name: self._number(name, value) for name, value in known.numbers.items()}
        if control is not None:
            factor = self._copy("control.factor", control.factor)
            control = Control(factor, self._copy("control.l0", control.l0))
        return replace(known.context, numbers=numbers, control=control)

    def rates(self, optimizer: Optimizer, step: int) -> Optimizer:
        """The optimiser, whose rates are in memory."""
        return replace(optimizer, rates_R=self.recorder.rates(rates(optimizer, step)))

    def _batch(self, number: int, batch: Batch) -> Batch:
        x_BD = self._copy(f"x.{number}", batch.x_BD)
        if batch.target_BO is batch.x_BD:
            return replace(batch, x_BD=x_BD, target_BO=x_BD)
        target_BO = self._copy(f"target.{number}", batch.target_BO)
        return replace(batch, x_BD=x_BD, target_BO=target_BO)

    def _copy(self, name: str, value: Tensor) -> Tensor:
        return self.recorder.memory(name, value.shape, value.dtype).copy_(value)

    def _number(self, name: str, value: float) -> Tensor:
        return self.recorder.memory(name, torch.Size(), torch.float64).fill_(value)


def _work(
    architecture: Architecture[Any],
    spec: TrainSpec,
    state: TrainerState,
    rows: tuple[Batch, ...],
    ctx: Context,
    optimizer: Optimizer,
) -> Done:
    """What is recorded: it reads no number of the host's that changes."""
    counter_F = state.tokens_since_fired_or_resampled_F
    ctx = replace(ctx, dead_F=dead.mask(counter_F, spec.dead_window_tokens))
    return compute_(architecture, spec.architecture, state, rows, ctx, optimizer)


def _kind(known: Recordable, state: TrainerState) -> Hashable:
    """Numbers of the host that operations depend on, and where the state's tensors lie."""
    ctx = known.context
    moments = (state.moments.first, state.moments.second)
    groups = (state.params, *moments, state.architecture)
    counters = (state.tokens_since_fired_F, state.tokens_since_fired_or_resampled_F)
    tensors = (*(t for group in groups for t in group.values()), *counters)
    scheduled = tuple(sorted(ctx.scheduled.items()))
    numbers = (ctx.step, ctx.dead_bound, ctx.encoder_dtype, ctx.control is None, scheduled)
    return (*numbers, tuple(known.numbers), tuple(t.data_ptr() for t in tensors))
