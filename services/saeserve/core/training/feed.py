"""Preprocessed batches of a source, and the time that training waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from saeserve.core.architectures.contract import Batch, Dimensions
from saeserve.core.data.lane import Lane, Mark
from saeserve.core.data.on_device import RowsOnDevice
from saeserve.core.data.preprocess import Prepares
from saeserve.core.data.source import ActivationSource
from saeserve.core.data.waits import Pair, Sum, Waits


class Feed:
    """Rows of `source` on the device, centred, scaled and parted into input and target."""

    def __init__(
        self,
        source: ActivationSource,
        preprocessing: Prepares,
        dims: Dimensions,
        lane: Lane,
        wanted: int = 0,
    ) -> None:
        """`wanted`: so many rows will be read, if that is known."""
        self._rows = RowsOnDevice(source, preprocessing, lane, wanted)
        self._dims = dims
        self.waits = self._rows.waits

    def read(self, position: int, size: int) -> Batch:
        """Rows position .. position + size of the stream."""
        return self._dims.batch(self._rows.read(position, size))

    def stepped(self) -> None:
        """Say that a step was queued."""
        self._rows.stepped()


class Waited(Protocol):
    """What rows are waited for."""

    waits: Waits


@dataclass(frozen=True)
class Stretch:
    """A stretch of training between two marks of the device's queue."""

    lane: Lane
    ends: Pair
    waited: Sum
    left_out: tuple[Pair, ...]

    def values(self, rows: float) -> dict[str, float]:
        """tokens_per_second and data_wait_fraction of so many rows, waiting until the stretch is
        over."""
        elapsed = self.lane.seconds(*self.ends)
        elapsed = max(elapsed - sum(self.lane.seconds(*pair) for pair in self.left_out), 1e-9)
        return {
            "tokens_per_second": rows / elapsed,
            "data_wait_fraction": self.waited.total(self.lane) / elapsed,
        }


class Pace:
    """How fast rows are trained on, and which share of the time goes into waiting for them."""

    def __init__(self, feed: Waited) -> None:
        self._lane = feed.waits.lane
        self._account = feed.waits.account()
        self.restart()

    def restart(self) -> None:
        """Measure from now on."""
        self._account.take()
        self._began: Mark = self._lane.mark()
        self._left_out: list[Pair] = []

    def leave_out(self, since: Mark) -> None:
        """Do not count the time since a mark, which was not spent on training."""
        self._left_out.append((since, self._lane.mark()))

    def stretch(self) -> Stretch:
        """The stretch since the start; another one starts."""
        ends, left_out = (self._began, self._lane.mark()), tuple(self._left_out)
        found = Stretch(self._lane, ends, self._account.take(), left_out)
        self._began, self._left_out = ends[1], []
        return found

    def values(self, rows: float) -> dict[str, float]:
        """The figures of the stretch since the start, `rows` later; another one starts."""
        return self.stretch().values(rows)
