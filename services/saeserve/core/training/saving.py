"""Checkpoints: where they go, and how they are written while an accelerator trains on.

A copy on the device holds the state as it is; a thread brings it to the host next to the device's
queue, looks that it is finite, and commits it, by the same sink as ever. One is written at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from saeserve.core.data.ahead import Ahead, Background
from saeserve.core.data.lane import Held, Lane
from saeserve.core.training import checkpoint
from saeserve.core.training.checkpoint import Header
from saeserve.core.training.events import CheckpointCommitted
from saeserve.core.training.reports import not_finite
from saeserve.core.training.state import TrainerState

_FINITE = "finite"
ROOM = 1.1
"""Free memory that a copy needs, in its own size."""


class CheckpointSink(Protocol):
    """Where checkpoints go."""

    def commit(self, step: int, write: Callable[[Path], None]) -> int:
        """Call `write` with an empty folder, then make what it wrote durable; returns bytes. On a
        thread, but never on two at a time."""
        ...


class Copied:
    """A copy of the state on the device, to be committed by a thread."""

    def __init__(self, lane: Lane, state: TrainerState, header: Header) -> None:
        self._lane = lane
        self._header = header
        self._held: list[Held] = [lane.hold(state.tensors() | {_FINITE: state.all_finite()})]

    @staticmethod
    def fits(lane: Lane, state: TrainerState) -> bool:
        """Whether the device has room for a copy."""
        needed = sum(value.nbytes for value in state.tensors().values())
        return ROOM * needed <= lane.free_bytes()

    def commit(self, sink: CheckpointSink) -> int:
        """Bring it to the host and commit it; returns the size in bytes. Raises DivergedError where
        it is not finite, and what the sink raises."""
        tensors, header = self._lane.bring(self._held.pop()), self._header
        if not bool(tensors.pop(_FINITE)):
            raise not_finite(header.step)
        return sink.commit(header.step, lambda folder: checkpoint.write(folder, tensors, header))


class Checkpoints:
    """Commits the state of a run, at once or while training goes on."""

    def __init__(self, lane: Lane, state: TrainerState, header: Callable[[], Header]) -> None:
        """`header` makes that of a checkpoint of `state` as it is."""
        self._lane, self._state, self._header = lane, state, header
        self._committed = -1 if state.step == 0 else state.step
        self._background: Background | None = None
        self._writing: tuple[int, Ahead[int]] | None = None

    def commit(self, sink: CheckpointSink, *, last: bool) -> Iterator[CheckpointCommitted]:
        """Commit the state. The `last` checkpoint of a run is waited for, and so is each on the CPU
        and where a copy does not fit; others are written meanwhile, unless one still is.

        Raises DivergedError for a state that is not finite, and what the sink raises.
        """
        if last or not self._lane.asynchronous or not Copied.fits(self._lane, self._state):
            yield from self.finished(wait=True)
            yield from self._commit_now(sink)
        elif self._writing is None:
            self._begin(sink)

    def finished(self, *, wait: bool) -> Iterator[CheckpointCommitted]:
        """The checkpoint that was written since, waiting for it if asked to. Raises what committing
        it raised."""
        if self._writing is None or not (wait or self._writing[1].done):
            return
        (step, writing), self._writing = self._writing, None
        size = writing.result()
        self._committed = step
        yield CheckpointCommitted(step, size)

    def leave(self) -> None:
        """Wait until nothing is written any more. To be called when a run ends by an error, which
        is raised already: a second one of the thread is dropped."""
        if self._writing is not None:
            self._writing[1].discard()
            self._writing = None

    def check_finite(self) -> None:
        """Raise DivergedError where the state holds NaN or Inf: it is not to be committed."""
        if not self._state.finite():
            raise not_finite(self._state.step)

    def save(self, folder: Path) -> None:
        """Write the state into the empty `folder`; committing it is the caller's."""
        tensors = self._state.tensors()
        host = {name: value.detach().cpu() for name, value in tensors.items()}
        checkpoint.write(folder, host, self._header())

    def _commit_now(self, sink: CheckpointSink) -> Iterator[CheckpointCommitted]:
        if self._state.step == self._committed:
            return
        self.check_finite()
        size = sink.commit(self._state.step, self.save)
        self._committed = self._state.step
        yield CheckpointCommitted(self._committed, size)

    def _begin(self, sink: CheckpointSink) -> None:
        self._background = self._background or Background()
        copied = Copied(self._lane, self._state, self._header())
        committing = Ahead(lambda: copied.commit(sink), self._background)
        self._writing = self._state.step, committing
