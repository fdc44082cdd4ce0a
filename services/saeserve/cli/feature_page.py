"""One feature on a terminal: figures, labels, logits, neighbours and contexts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from saeserve.cli.figures import figure, listed
from saeserve.cli.output import say
from saeserve.cli.tables import print_fields, print_table
from saeserve.client.feature_values import (
    Feature,
    FeatureBundle,
    FeatureContext,
    FeatureHistogram,
    FeatureLabel,
    Proportion,
    TokenScore,
)
from saeserve.explorer.formats import visible

_BEFORE, _AFTER = 12, 6
"""Tokens of a context that a line shows around the firing."""
_BARS = "▁▂▃▄▅▆▇█"


def print_feature(feature: Feature, bundle: FeatureBundle, contexts: int) -> None:
    """Figures first, then `contexts` firings of each group. Tokens that fire stand in ‹ ›, the
    firing itself in « »."""
    line = feature.summary
    print_fields(
        [
            ("feature", f"{line.feature} of {feature.model}"),
            ("label", "\n".join(map(label_text, feature.labels))),
            ("firings", f"{line.count:,} of {bundle.rows:,} rows ({line.density:.3g})"),
            ("activation", f"max {figure(line.max)}, mean {figure(line.mean)}"),
            ("histogram", histogram_text(feature.histogram)),
            ("logits up", scores_text(feature.logits_up)),
            ("logits down", scores_text(feature.logits_down)),
            (
                "neighbours",
                listed(f"{each.feature} ({each.cosine:.2f})" for each in feature.neighbours),
            ),
            ("collected", f"on {bundle.dataset} by {feature.job}"),
        ]
    )
    rows = list(_context_rows(feature, contexts))
    if rows:
        print_table(("", "value", "document", "context"), rows)
    elif contexts:
        say("it did not fire on any row")


def label_text(label: FeatureLabel) -> str:
    """A label, how it was made, and what it scores."""
    scores = (("precision", label.precision), ("recall", label.recall))
    told = [f"{name} {_proportion_text(share)}" for name, share in scores if share is not None]
    return f"{label.text} ({listed([label.kind, *told])})"


def score_text(precision: float | None, recall: float | None) -> str:
    """Precision and recall of a label in a cell; empty where both are unknown."""
    if precision is None and recall is None:
        return ""
    return " / ".join("?" if each is None else f"{each:.2f}" for each in (precision, recall))


def histogram_text(histogram: FeatureHistogram) -> str:
    """A bar for each bin from the first to the last that holds firings, and their bounds."""
    counts = histogram.counts
    full = [at for at, count in enumerate(counts) if count]
    if not full:
        return ""
    first, last, most = full[0], full[-1], max(counts)
    bars = "".join(_bar(count, most) for count in counts[first : last + 1])
    return f"{figure(histogram.edges[first])} {bars} {figure(histogram.edges[last + 1])}"


def scores_text(scores: Iterable[TokenScore]) -> str:
    """Tokens with what is added to their logits."""
    return "  ".join(f"{visible(each.text)} {each.score:+.2f}" for each in scores)


def context_text(context: FeatureContext) -> str:
    """The tokens around a firing, white space visible."""
    first = max(0, context.peak - _BEFORE)
    last = min(len(context.texts), context.peak + _AFTER + 1)
    shown = "".join(_token_text(context, at) for at in range(first, last))
    return f"{'… ' if first else ''}{shown}{' …' if last < len(context.texts) else ''}"


def _token_text(context: FeatureContext, at: int) -> str:
    text = visible(context.texts[at])
    if at == context.peak:
        return f"«{text}»"
    return f"‹{text}›" if context.activations[at] else text


def _context_rows(feature: Feature, most: int) -> Iterator[tuple[str, str, int, str]]:
    groups: list[tuple[str, Sequence[FeatureContext]]] = [("top", feature.top)]
    groups += [
        (f"{figure(each.low)} – {figure(each.high)} (of {each.count:,})", each.contexts)
        for each in feature.intervals
    ]
    groups.append(("any", feature.uniform))
    for name, contexts in groups:
        for number, each in enumerate(contexts[:most]):
            value, text = figure(each.value), context_text(each)
            yield name if number == 0 else "", value, each.document, text


def _bar(count: int, most: int) -> str:
    return _BARS[(len(_BARS) - 1) * count // most] if count else " "


def _proportion_text(share: Proportion) -> str:
    if share.low is None or share.high is None:
        return f"{share.value:.2f}"
    return f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"
