"""What the trainer reads rows from; shards on disk are one kind, a running harvest another."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class ActivationSource(Protocol):
    """An endless, shuffled stream of activation rows that can be read from any position."""

    @property
    def d(self) -> int:
        """Width of a row."""
        ...

    @property
    def rows(self) -> int:
        """Rows of one epoch: the training rows that take part."""
        ...

    def batch(self, position: int, size: int) -> Tensor:
        """Rows position .. position + size of the stream, float32 [size, d].

        A pure function of the source and its seed: epoch `position // rows` visits every row
        once, in an order of its own; epochs follow each other, so a batch may span two.
        """
        ...

    def sample(self, n: int, seed: int) -> Tensor:
        """min(n, rows) distinct rows spread over the whole data set, float32 [., d]."""
        ...
