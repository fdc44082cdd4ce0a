"""What feature pages read: the interface that they stand on, and its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from saeserve.client import Client

Sort = Literal["feature", "density", "max"]


@dataclass(frozen=True)
class Label:
    """What a feature fires on, in words, and how well that predicts its firings on held-out rows
    (null: unknown); `n` firings."""

    text: str
    precision: float | None
    recall: float | None
    n: int | None
    source: str


@dataclass(frozen=True)
class FeatureLine:
    """One line of a list. `density` is a share of rows; `max` a magnitude, `mean` over firings
    alone, both in units of activation."""

    feature: int
    count: int
    density: float
    max: float
    mean: float
    label: str | None = None


@dataclass(frozen=True)
class FeatureFilter:
    """Which features a list holds; null does not restrict. Bounds are included."""

    min_density: float | None = None
    max_density: float | None = None
    min_max: float | None = None
    dead: bool | None = None
    """True: only features that never fired; false: none of those."""
    label: str = ""
    """Words that the label holds."""


@dataclass(frozen=True)
class FeatureList:
    """One page of a list, and how many features the filter lets through in all."""

    total: int
    features: tuple[FeatureLine, ...]


@dataclass(frozen=True)
class Context:
    """A firing and the tokens around it. `texts` and `activations` have one entry a token, `peak`
    is the index of the firing."""

    document: int
    sequence: int
    value: float
    peak: int
    texts: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class Interval:
    """Firings of magnitude in [low, high): how many, and some drawn at random."""

    low: float
    high: float
    count: int
    contexts: tuple[Context, ...]


@dataclass(frozen=True)
class Histogram:
    """Firings by magnitude: bin i holds [edges[i], edges[i + 1])."""

    edges: tuple[float, ...]
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
    """Everything that is known of a feature."""

    line: FeatureLine
    label: Label | None
    histogram: Histogram
    top: tuple[Context, ...]
    """Largest activations, one a sequence, largest first."""
    uniform: tuple[Context, ...]
    """Drawn from all firings with equal chance."""
    intervals: tuple[Interval, ...]
    logits_up: tuple[TokenScore, ...]
    logits_down: tuple[TokenScore, ...]
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Collection:
    """The pass over data in which a model's features were collected."""

    model: str
    dataset: str
    language_model: str
    hook: str
    d_sae: int
    rows: int
    """Rows that were encoded: the denominator of every density."""
    logits: str
    """How logits were computed; "" where they were not."""


@dataclass(frozen=True)
class TokenFeatures:
    """A token of the vocabulary, rows of the pass on it, and the features that fire most on it."""

    token: int
    text: str
    count: int
    features: tuple[int, ...]


class FeatureReading(Protocol):
    """Features of models as one caller may see them. Every method raises ClientError: NotFound for
    a model or feature that there is not, FailedPrecondition for a model whose features were not
    collected. `model` is a reference as everywhere."""

    def describe(self, model: str) -> Collection:
        """The rows, text and model that a bundle was made of."""
        ...

    def list(
        self,
        model: str,
        where: FeatureFilter,
        *,
        sort: Sort,
        descending: bool,
        offset: int,
        limit: int,
    ) -> FeatureList:
        """Features `offset` .. `offset + limit` of those that `where` lets through."""
        ...

    def feature(self, model: str, feature: int) -> Feature:
        """All that is known of one feature."""
        ...

    def search_token(self, model: str, text: str) -> tuple[TokenFeatures, ...]:
        """Tokens whose text is `text`, or begins with it, most frequent first."""
        ...


FeaturesOf = Callable[[Client], FeatureReading]
"""The features that a caller's client reads."""
