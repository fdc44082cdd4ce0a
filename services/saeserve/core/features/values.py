"""What a bundle's reader returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saeserve.core.labels.label import Proportion

SortKey = Literal["feature", "density", "max"]
Group = Literal["top", "uniform", "intervals"]


@dataclass(frozen=True)
class Label:
    """What a feature fires on, in words, and how well that predicts its firings on held-out rows
    that had no part in it. A share of which nothing was counted is nan, its n 0."""

    text: str
    """Patterns, most precise first; ␣ is a space, ↵ a line's end."""
    source: str
    """How it was made: top_tokens, promoted (by logits) or patterns (of tokens)."""
    precision: Proportion
    """Share of the rows with one of the patterns on which the feature fires."""
    recall: Proportion
    """Share of the rows on which the feature fires that have one of the patterns."""
    patterns: tuple[int, ...]
    """All of them, as `core.labels.text.unpack` reads them."""


@dataclass(frozen=True)
class FeatureSummary:
    """One line of a list. `density` is a share of rows; `max` and `mean` are in units of
    activation, `max` a magnitude, `mean` over firings alone."""

    feature: int
    count: int
    density: float
    max: float
    mean: float
    label: str | None
    precision: float | None
    recall: float | None
    """Figures of the label; None where nothing was counted."""


@dataclass(frozen=True)
class FeatureFilter:
    """Which features a list holds; None does not restrict. Bounds are included."""

    min_density: float | None = None
    max_density: float | None = None
    min_max: float | None = None
    dead: bool | None = None
    """True: only features that never fired in the pass; False: none of those."""
    label: str | None = None
    """Words that the label holds, each as a prefix."""
    features: tuple[int, ...] | None = None


@dataclass(frozen=True)
class FeatureList:
    """One page of a list, and how many features the filter lets through in all."""

    total: int
    features: tuple[FeatureSummary, ...]


@dataclass(frozen=True)
class Context:
    """A firing and the tokens around it, all of one sequence.

    `tokens`, `texts` and `activations` have one entry a token; `peak` is the index of the firing
    itself. A token of -1 stands for tokens that are not rows of the data set; its text is "…".
    Activations are those of the feature, 0 where it does not fire.
    """

    position: int
    """In the token file."""
    document: int
    sequence: int
    """Numbers in the data set."""
    value: float
    peak: int
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class Interval:
    """Firings of magnitude in [low, high): how many there are, and some drawn at random."""

    low: float
    high: float
    count: int
    contexts: tuple[Context, ...]


@dataclass(frozen=True)
class Histogram:
    """Firings by magnitude. Bin i holds [edges[i], edges[i + 1]), except that the first also
    holds what is below and the last what is above."""

    edges: tuple[float, ...]
    """One more than counts."""
    counts: tuple[int, ...]


@dataclass(frozen=True)
class TokenScore:
    """A token, and how much the feature's decoder row adds to its logit."""

    token: int
    text: str
    score: float


@dataclass(frozen=True)
class Neighbour:
    """Another feature, and the cosine of the two decoder rows."""

    feature: int
    cosine: float


@dataclass(frozen=True)
class Feature:
    """Everything that a bundle holds of a feature."""

    summary: FeatureSummary
    label: Label | None
    """The best of those that were made."""
    other_labels: tuple[Label, ...]
    """What the other ways of labelling made."""
    moments: tuple[float, float, float, float]
    """Sums of a, a², a³, a⁴ over firings."""
    histogram: Histogram
    top: tuple[Context, ...]
    """Largest activations, one a sequence, largest first."""
    uniform: tuple[Context, ...]
    """Drawn from all firings with equal chance."""
    intervals: tuple[Interval, ...]
    """By octave of magnitude, that of the maximum first."""
    logits_up: tuple[TokenScore, ...]
    logits_down: tuple[TokenScore, ...]
    """Both empty where the bundle has no logits."""
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class TokenFeature:
    """A feature that fires on a token; `score` ranks, and is comparable within one token."""

    feature: int
    score: float


@dataclass(frozen=True)
class TokenFeatures:
    """A token of the vocabulary, rows of the pass on it, and what fires most on it."""

    token: int
    text: str
    count: int
    features: tuple[TokenFeature, ...]
