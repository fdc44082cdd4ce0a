"""Features of a model that exists nowhere: planted, and with hostile text in their tokens."""

from __future__ import annotations

import math

from saeserve.client import Client
from saeserve.client.errors import InvalidArgumentError
from saeserve.explorer.reading import (
    Collection,
    Context,
    Feature,
    FeatureFilter,
    FeatureLine,
    FeatureList,
    Histogram,
    Interval,
    Label,
    Neighbour,
    Sort,
    TokenFeatures,
    TokenScore,
)

D_SAE, ROWS = 200, 100_000
HOSTILE = "<img src=x onerror=alert(1)>"
WORDS = (" the", " king", "\n", " of", " Israel", "\u202e", ",", HOSTILE, "  ", " said", " unto")
DEAD = 3
"""Every feature whose number has this rest by 7 never fires."""


class PlantedFeatures:
    """FeatureReading over arithmetic."""

    def describe(self, model: str) -> Collection:
        logits = "Decoder rows times the unembedding, without the final norm."
        return Collection(model, "acts", "mine:lm", "resid_post.2", D_SAE, ROWS, logits)

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
        found = [line for line in map(_line, range(D_SAE)) if _passes(line, where)]
        found.sort(key=lambda line: getattr(line, sort), reverse=descending)
        return FeatureList(len(found), tuple(found[offset : offset + limit]))

    def feature(self, model: str, feature: int) -> Feature:
        if not 0 <= feature < D_SAE:
            raise InvalidArgumentError(
                f"{feature} is not in 0 .. {D_SAE - 1}", reason="NO_FEATURE", field="feature"
            )
        line = _line(feature)
        edges = tuple(2.0 ** (n / 4 - 4) for n in range(65))
        counts = tuple(_count(n) if line.count else 0 for n in range(64))
        shown = tuple(_context(feature, n, line.max) for n in range(14)) if line.count else ()
        return Feature(
            line=line,
            label=Label("kings of Israel", 0.93, 0.71, 412, "top tokens") if line.label else None,
            histogram=Histogram(edges, counts),
            top=shown,
            uniform=shown[3:8],
            intervals=(Interval(4.0, 8.0, 120, shown[:3]), Interval(2.0, 4.0, 950, shown[3:5])),
            logits_up=tuple(TokenScore(n, WORDS[n], 2.0 - n / 5) for n in range(5)),
            logits_down=tuple(TokenScore(n, WORDS[n], n / 5 - 2.0) for n in range(5, 10)),
            neighbours=tuple(Neighbour((feature + n) % D_SAE, 0.9 - n / 10) for n in (1, 2, 3)),
        )

    def search_token(self, model: str, text: str) -> tuple[TokenFeatures, ...]:
        known = [n for n, word in enumerate(WORDS) if word.strip().startswith(text.strip())]
        return tuple(TokenFeatures(n, WORDS[n], 400 + n, (1, 4, 9)) for n in known)


def planted(_client: Client) -> PlantedFeatures:
    """What every caller sees."""
    return PlantedFeatures()


def _line(feature: int) -> FeatureLine:
    if feature % 7 == DEAD:
        return FeatureLine(feature, 0, 0.0, 0.0, 0.0)
    count = 4 + (feature * 7919) % 5000
    largest = 4 + feature % 5
    label = "kings of Israel" if feature % 2 else HOSTILE if feature == 4 else None
    return FeatureLine(feature, count, count / ROWS, largest, largest / 3, label)


def _passes(line: FeatureLine, where: FeatureFilter) -> bool:
    return (
        (where.min_density is None or line.density >= where.min_density)
        and (where.max_density is None or line.density <= where.max_density)
        and (where.dead is None or where.dead == (line.count == 0))
        and where.label in (line.label or "")
    )


def _count(at: int) -> int:
    return int(900 * math.exp(-((at - 18) ** 2) / 60))


def _context(feature: int, number: int, largest: float) -> Context:
    texts = tuple(WORDS[(feature + number + n) % len(WORDS)] for n in range(24))
    values = tuple(largest * (n - 9) / 6 if 10 <= n <= 15 else 0.0 for n in range(24))
    return Context(number, 17 * number, largest, 15, texts, values)
