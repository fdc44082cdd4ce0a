"""What the batcher handles: operations, requests that wait, and answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from saeserve.inference.queue import Entry
from saeserve.inference.refusals import too_large
from saeserve.inference.rows import Rows, join

ModelT = TypeVar("ModelT")
ModelT_contra = TypeVar("ModelT_contra", contravariant=True)


class Operation(StrEnum):
    """What is asked of a model. Engines know the first three; others stand on those, and the last
    five read a bundle of its features."""

    ENCODE = "encode"
    DECODE = "decode"
    RECONSTRUCT = "reconstruct"
    STEER = "steer"
    NEIGHBOURS = "neighbours"
    TOP_FEATURES = "top_features"
    MATCH_FEATURES = "match_features"
    DESCRIBE_BUNDLE = "describe_bundle"
    LIST_FEATURES = "list_features"
    GET_FEATURE = "get_feature"
    GET_CONTEXTS = "get_contexts"
    SEARCH_TOKEN = "search_token"


class Engine(Protocol[ModelT_contra]):
    """Computes on one device."""

    @property
    def in_flight(self) -> int:
        """Batches that may have begun and not ended: 1 where `begin` computes them itself."""
        ...

    @property
    def takes_sent_types(self) -> bool:
        """Whether it widens activations itself; else they come in float32."""
        ...

    def begin(
        self, model: ModelT_contra, operation: Operation, parts: Sequence[Rows]
    ) -> Callable[[], Rows]:
        """Begin a batch, and return what waits for its end.

        That returns one row of answer for each row of the parts, in order. Batches are begun by
        one thread and awaited by another one, in the same order.
        """
        ...


@dataclass(frozen=True)
class Served:
    """An answer, and how it came about."""

    rows: Rows
    queue_seconds: float
    compute_seconds: float
    batch_rows: int


@dataclass(eq=False, kw_only=True)
class Request(Entry, Generic[ModelT]):
    """Rows that a caller waits for, and what is done of them."""

    model: ModelT
    operation: Operation
    payload: Rows
    deadline: float | None
    answer: asyncio.Future[Served]
    queued: float = field(default_factory=time.monotonic)
    done: list[Rows] = field(default_factory=list[Rows])
    done_rows: int = 0
    done_bytes: int = 0
    compute_seconds: float = 0.0
    batch_rows: int = 0

    def fail(self, error: Exception) -> None:
        """Answer with an error, if nothing was answered and the caller is still there."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def add(self, rows: Rows, batch_rows: int, seconds: float, max_bytes: int) -> None:
        """Take the next rows of the answer, and answer when they are the last."""
        if self.answer.done():
            return
        self.done.append(rows)
        self.done_rows += rows.rows
        self.done_bytes += rows.nbytes
        self.compute_seconds += seconds
        self.batch_rows = max(self.batch_rows, batch_rows)
        if self.done_bytes > max_bytes:
            self.fail(too_large())
        elif self.done_rows == self.rows:
            self.answer.set_result(self._served())

    def _served(self) -> Served:
        rows = self.done[0] if len(self.done) == 1 else join(self.done)
        waited = time.monotonic() - self.queued - self.compute_seconds
        return Served(rows, max(waited, 0.0), self.compute_seconds, self.batch_rows)
