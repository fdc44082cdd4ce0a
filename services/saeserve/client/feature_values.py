"""Features of a bundle as the SDK hands them out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from saeserve.client.steering import Neighbour


@dataclass(frozen=True)
class FeatureBundle:
    """One pass over rows of a data set, in which the features of a model version were collected."""

    model: str
    """models/<name>/versions/<n>"""
    job: str
    """The collect job that made it."""
    created: datetime | None
    size_bytes: int
    dataset: str
    dataset_sha256: str
    source: str
    """Sources of the data set that the model's input is."""
    language_model: str
    hook: str
    """Where in the language model the rows come from, e.g. resid_post.12."""
    d_sae: int
    rows: int
    """Rows that were encoded: the denominator of every density."""
    rows_left_out: int
    """Rows of massive norm that were not."""
    tokens: int
    sequences: int
    """What contexts are cut from."""
    seed: int
    """Seed of the random contexts."""
    firing_features: int
    labelled_features: int
    top: int
    uniform: int
    intervals: int
    per_interval: int
    """Contexts of each feature at most: the largest, random ones, and for so many octaves of
    magnitude so many random ones."""
    window: int
    """Tokens of a context before and after the firing, at most."""
    logits: str
    """How logits were computed; empty where they were not."""
    neighbours: int
    """Neighbours of a feature; 0 where they were not looked for."""
    jobs: tuple[str, ...]
    """Jobs that made the bundles of this version, newest first."""


@dataclass(frozen=True)
class FeatureFilter:
    """Which features a list holds; None does not restrict. Bounds are included.

    >>> rare = FeatureFilter(max_density=0.001, dead=False)
    >>> page = client.features.page("my-sae@prod", where=rare)
    """

    min_density: float | None = None
    max_density: float | None = None
    min_max: float | None = None
    dead: bool | None = None
    """True: only features that never fired in the pass; False: none of those."""
    label: str = ""
    """Words that the label holds, each as the beginning of a word."""
    features: tuple[int, ...] = ()
    """Only these; empty does not restrict."""


@dataclass(frozen=True)
class FeatureSummary:
    """One line of a list. `density` is a share of rows; `max` a magnitude, `mean` over firings
    alone, both in units of activation."""

    feature: int
    count: int
    density: float
    max: float
    mean: float
    label: str | None
    """The text of its best label; None where it has none."""
    label_precision: float | None = None
    label_recall: float | None = None


@dataclass(frozen=True)
class FeaturePage:
    """Some features, and how many pass the filter in all."""

    features: tuple[FeatureSummary, ...]
    total: int
    next_page_token: str
    """Empty on the last page."""
    model: str
    """models/<name>/versions/<n>"""
    job: str
    """The job whose bundle answered."""


@dataclass(frozen=True)
class Proportion:
    """A share of `n` (0: not known), with bounds at 95 % confidence where they are known."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class FeatureLabel:
    """What a feature fires on, in words, and how well that predicts its firings on text that had no
    part in making it (None: unknown)."""

    text: str
    kind: str
    """How it was made: top_tokens, promoted (by logits) or patterns (of tokens)."""
    precision: Proportion | None
    """Share of the predicted firings that are firings."""
    recall: Proportion | None
    """Share of the firings that are predicted."""


@dataclass(frozen=True)
class FeatureHistogram:
    """Firings by magnitude. Bin i holds [edges[i], edges[i + 1]); the first also holds what is
    below, and the last what is above."""

    edges: tuple[float, ...]
    """One more than counts."""
    counts: tuple[int, ...]


@dataclass(frozen=True)
class FeatureContext:
    """A firing and the tokens around it, all of one sequence.

    `tokens`, `texts` and `activations` have one entry a token; `peak` is the index of the firing. A
    token of -1 stands for tokens that are not rows of the data set; its text is "…". Activations
    are those of the feature, 0 where it does not fire.
    """

    document: int
    sequence: int
    """Numbers in the data set."""
    position: int
    """Among the tokens of the bundle."""
    value: float
    peak: int
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class FeatureInterval:
    """Firings of magnitude in [low, high): how many there are, and some drawn at random."""

    low: float
    high: float
    count: int
    contexts: tuple[FeatureContext, ...]


@dataclass(frozen=True)
class TokenScore:
    """A token, and how much the feature's decoder row adds to its logit."""

    token: int
    text: str
    score: float


@dataclass(frozen=True)
class Feature:
    """All that a bundle holds of a feature."""

    summary: FeatureSummary
    labels: tuple[FeatureLabel, ...]
    """Best first."""
    moments: tuple[float, ...]
    """Sums over its firings of a, a², a³ and a⁴."""
    histogram: FeatureHistogram
    top: tuple[FeatureContext, ...]
    """Largest activations, one a sequence, largest first."""
    uniform: tuple[FeatureContext, ...]
    """Drawn from all firings with equal chance."""
    intervals: tuple[FeatureInterval, ...]
    """By octave of magnitude, that of the maximum first."""
    logits_up: tuple[TokenScore, ...]
    logits_down: tuple[TokenScore, ...]
    """Both empty where the bundle has no logits."""
    neighbours: tuple[Neighbour, ...]
    """Largest cosine first."""
    model: str
    """models/<name>/versions/<n>"""
    job: str
    """The job whose bundle answered."""


@dataclass(frozen=True)
class TokenFeature:
    """A feature that fires on a token; scores rank, and can be compared within one token."""

    feature: int
    score: float


@dataclass(frozen=True)
class TokenFeatures:
    """A token, rows of the pass on it, and the features that fire most on it, first the one that
    does most."""

    token: int
    text: str
    count: int
    features: tuple[TokenFeature, ...]
