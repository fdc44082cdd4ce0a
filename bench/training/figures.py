"""What is made of the turns: speeds, ratios within rounds, shares of the limit."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.training.contestant import Dtype
from bench.training.limits import limit_seconds
from bench.training.parts import SETTLING_TURNS
from bench.training.race import Result


@dataclass(frozen=True)
class Ratio:
    """How many times faster one is than another, over the rounds of their race."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Ratio:
        """Least, median and largest of at least one value."""
        return cls(min(values), statistics.median(values), max(values))

    def __str__(self) -> str:
        """Median, and the range."""
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


def counted(result: Result) -> tuple[float, ...]:
    """Seconds of the turns that count."""
    return result.seconds[SETTLING_TURNS:]


def tokens_per_second(result: Result) -> float:
    """Speed of the median turn."""
    return result.contestant.turn_tokens / statistics.median(counted(result))


def whole_run(result: Result) -> float:
    """Tokens a second over every turn, the first too."""
    return result.contestant.turn_tokens * len(result.turns) / sum(result.seconds)


def ratio(ours: Result, theirs: Result) -> Ratio:
    """Ratio of tokens a second, in pairs of turns of the same round."""
    more = ours.contestant.turn_tokens / theirs.contestant.turn_tokens
    pairs = zip(counted(theirs), counted(ours), strict=True)
    return Ratio.of([more * slow / fast for slow, fast in pairs])


def fraction_of_limit(result: Result, limit: Result, d_in: int, dtype: Dtype) -> float:
    """Median over rounds of the limit's time over the step's, with a GEMM of `dtype`."""
    who = result.contestant
    least = [
        limit_seconds(d_in, who.d_sae, turn[f"gemm_{dtype}"], turn["bytes_per_second"])
        for turn in limit.turns[SETTLING_TURNS:]
    ]
    steps = [seconds / who.turn_steps for seconds in counted(result)]
    return statistics.median(a / b for a, b in zip(least, steps, strict=True))
