"""Checkpoints: where they go, and how they are written while an accelerator trains on.

A copy on the device holds the state as it is; a thread brings it to the host next to the device's
queue, looks that it is finite, and commits it, by the same sink as ever. One is written at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from saeserve.core.architectures.contract import Tensors
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
    def fits(lane: Lane, states: Iterable[TrainerState]) -> bool:
        """Whether the device has room for copies of all of them."""
        needed = sum(value.nbytes for state in states for value in state.tensors().values())
        return ROOM * needed <= lane.free_bytes()

    def commit(self, sink: CheckpointSink) -> int:
        """Bring it to the host and commit it; returns the size in bytes. Raises DivergedError where
        it is not finite, and what the sink raises."""
        tensors, header = self._bring(), self._header
        return sink.commit(header.step, lambda folder: checkpoint.write(folder, tensors, header))

    def write(self, folder: Path) -> None:
        """Bring it to the host and write it into `folder`, which is made. Raises DivergedError
        where it is not finite, before anything is made."""
        tensors = self._bring()
        folder.mkdir()
        checkpoint.write(folder, tensors, self._header)

    def _bring(self) -> Tensors:
        """The tensors on the host; the copy is let go of. Raises DivergedError."""
        tensors = self._lane.bring(self._held.pop())
        if not bool(tensors.pop(_FINITE)):
            raise not_finite(self._header.step)
        return tensors


class Writing:
    """A commit on a thread, one at a time, while training goes on."""

    def __init__(self) -> None:
        self._background: Background | None = None
        self._open: tuple[int, Ahead[int]] | None = None

    @property
    def busy(self) -> bool:
        """Whether a commit has begun whose end nobody has asked for."""
        return self._open is not None

    def begin(self, step: int, commit: Callable[[], int]) -> None:
        """Commit the checkpoint of `step`; `commit` returns its size in bytes."""
        self._background = self._background or Background()
        self._open = step, Ahead(commit, self._background)

    def finished(self, *, wait: bool) -> Iterator[CheckpointCommitted]:
        """The checkpoint that was committed since, waiting for it if asked to. Raises what
        committing it raised."""
        if self._open is None or not (wait or self._open[1].done):
            return
        (step, writing), self._open = self._open, None
        yield CheckpointCommitted(step, writing.result())

    def leave(self) -> None:
        """Wait until nothing is written any more. To be called when a run ends by an error, which
        is raised already: a second one of the thread is dropped."""
        if self._open is not None:
            self._open[1].discard()
            self._open = None


class Checkpoints:
    """Commits the state of a run, at once or while training goes on."""

    def __init__(self, lane: Lane, state: TrainerState, header: Callable[[], Header]) -> None:
        """`header` makes that of a checkpoint of `state` as it is."""
        self._lane, self._state, self._header = lane, state, header
        self._committed = -1 if state.step == 0 else state.step
        self._writing = Writing()

    def commit(self, sink: CheckpointSink, *, last: bool) -> Iterator[CheckpointCommitted]:
        """Commit the state. The `last` checkpoint of a run is waited for, and so is each on the CPU
        and where a copy does not fit; others are written meanwhile, unless one still is.

        Raises DivergedError for a state that is not finite, and what the sink raises.
        """
        if last or not self._lane.asynchronous or not Copied.fits(self._lane, [self._state]):
            yield from self.finished(wait=True)
            yield from self._commit_now(sink)
        elif not self._writing.busy:
            copied = self.copied()
            self._writing.begin(self._state.step, lambda: copied.commit(sink))

    def finished(self, *, wait: bool) -> Iterator[CheckpointCommitted]:
        """The checkpoint that was written since, waiting for it if asked to. Raises what committing
        it raised."""
        for event in self._writing.finished(wait=wait):
            self._committed = event.step
            yield event

    def leave(self) -> None:
        """Wait until nothing is written any more: see `Writing`."""
        self._writing.leave()

    def copied(self) -> Copied:
        """A copy of the state as it is."""
        return Copied(self._lane, self._state, self._header())

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
