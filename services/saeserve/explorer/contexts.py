"""Turns a context into what a page shows: tokens that fire, and the runs between them."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve.client.feature_values import FeatureContext
from saeserve.explorer.formats import readable, visible

LEVELS = 5
"""Strengths of an activation that a page tells apart."""


@dataclass(frozen=True)
class Segment:
    """Text to be shown as one piece. `level` is 0 for a run of tokens on which the feature does not
    fire, else 1 to LEVELS by the activation's share of the feature's maximum."""

    text: str
    level: int = 0
    value: float = 0.0
    peak: bool = False


def segments(context: FeatureContext, largest: float) -> tuple[Segment, ...]:
    """The pieces of a context; `largest` is the maximum of the feature."""
    made: list[Segment] = []
    run = ""
    for at, (text, value) in enumerate(zip(context.texts, context.activations, strict=True)):
        if value == 0:
            run += text
            continue
        if run:
            made.append(Segment(readable(run)))
            run = ""
        made.append(Segment(visible(text), level(value, largest), value, at == context.peak))
    if run:
        made.append(Segment(readable(run)))
    return tuple(made)


def level(value: float, largest: float) -> int:
    """How strong an activation is, 1 to LEVELS."""
    share = abs(value) / largest if largest > 0 else 1.0
    return min(LEVELS, max(1, 1 + int(share * LEVELS)))
