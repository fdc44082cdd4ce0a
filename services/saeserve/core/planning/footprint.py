"""The memory of a training job as a table of named tensors: who holds what, and when.

Every tensor that grows with the spec or the data is one `Held` with the moments in which it is
alive; the plan's figure is the largest sum over moments. The rows are in `tensors`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import prod


class Moment(StrEnum):
    """Stretches of a job that hold different tensors, in their order."""

    INITIALISATION = "initialisation"
    """Dictionaries and biases are made from a sample; Adam's moments are not there yet."""
    START = "start"
    """The untrained model's L0 is measured."""
    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"
    CHECKPOINT = "checkpoint"
    """Written from the live tensors: safetensors copies none."""
    RESAMPLING = "resampling"
    JUDGING = "judging"
    """The trained model and its evaluation form."""
    EXPORT = "export"
    """The evaluation form is folded; the trainer's state is still there."""
    EVALUATION = "evaluation"


STEP = frozenset({Moment.FORWARD, Moment.BACKWARD, Moment.UPDATE})
ALWAYS = frozenset(Moment)
TRAINED = ALWAYS - {Moment.INITIALISATION}
WIDTHS = {"float64": 8, "int64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "bool": 1, "byte": 1}
"""Bytes of a value."""


class Memory(StrEnum):
    """Whose memory is counted."""

    SHARED = "shared"
    """The one memory of a machine on whose processors the job computes."""
    DEVICE = "device"
    """An accelerator's."""
    HOST = "host"
    """That of an accelerator's host."""


class Part(StrEnum):
    """What a plan tells apart."""

    PARAMETERS = "parameters"
    OPTIMIZER = "optimizer"
    GRADIENTS = "gradients"
    TEMPORARIES = "temporaries"
    DATA = "data"
    BASE = "base"


@dataclass(frozen=True)
class Held:
    """A tensor (or several alike, by a leading axis), and when it is alive."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    moments: frozenset[Moment]
    part: Part = Part.TEMPORARIES
    host: bool = False
    """In the host's memory even where the job computes on an accelerator."""

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * WIDTHS[self.dtype]


@dataclass(frozen=True)
class Footprint:
    """All that a job holds in one memory."""

    held: tuple[Held, ...]
    memory: Memory = Memory.SHARED

    def at(self, moment: Moment, part: Part | None = None) -> int:
        """Bytes held in a moment, of one part or of all."""
        return sum(each.size for each in self._alive(moment) if part in (None, each.part))

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        return max(map(self.at, Moment))

    @property
    def peaks(self) -> dict[Moment, int]:
        """Bytes at each moment in which anything but the lasting tensors is held."""
        moments = [m for m in Moment if m in STEP or self.at(m, Part.TEMPORARIES)]
        return {moment: self.at(moment) for moment in moments}

    def largest(self, part: Part, moments: Iterable[Moment] = ALWAYS) -> int:
        """Most bytes that a part holds at once in any of the moments."""
        return max(self.at(moment, part) for moment in moments)

    def _alive(self, moment: Moment) -> Iterable[Held]:
        return (each for each in self.held if moment in each.moments and self._counts(each))

    def _counts(self, each: Held) -> bool:
        return self.memory is Memory.SHARED or each.host is (self.memory is Memory.HOST)
