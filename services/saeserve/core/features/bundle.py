"""Reads a feature bundle. The form: `schema`. Needs neither torch nor numba."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from saeserve.core.features import schema
from saeserve.core.features.canonical import octave_of
from saeserve.core.features.contexts import Windows
from saeserve.core.features.labelled import label_of
from saeserve.core.features.opening import open_database, open_tokens, read_manifest
from saeserve.core.features.packing import (
    INTERVAL,
    TOP,
    UNIFORM,
    of_group,
    unpack_examples,
    unpack_ranked,
)
from saeserve.core.features.queries import list_query, page_of
from saeserve.core.features.state import BINS, BINS_PER_OCTAVE, OCTAVES
from saeserve.core.features.values import (
    Context,
    Feature,
    FeatureFilter,
    FeatureList,
    FeatureSummary,
    Group,
    Histogram,
    Interval,
    Label,
    Neighbour,
    SortKey,
    TokenFeature,
    TokenFeatures,
    TokenScore,
)
from saeserve.core.features.writer import plain
from saeserve.errors import DamagedError, SpecError

GAP_TEXT = "…"
SUMMARY = (
    "f.feature, f.count, f.density, f.max, f.mean, l.label, "
    "CAST(l.hits AS REAL) / l.matched, CAST(l.hits AS REAL) / l.fired"
)
_GROUPS: dict[Group, int] = {"top": TOP, "uniform": UNIFORM, "intervals": INTERVAL}
_SEARCHED = 20
"""Tokens that one search shows at most."""


class FeatureBundle:
    """An open bundle; threads may share it.

    `open` raises FormatError for a bundle that is missing, half-written, or of another version.
    """

    def __init__(
        self, folder: Path, manifest: schema.BundleManifest, database: sqlite3.Connection
    ) -> None:
        self.manifest = manifest
        self._database = database
        self._tokens, sequences = open_tokens(folder, manifest)
        self._windows = Windows(self._tokens, sequences, self._texts)

    @classmethod
    def open(cls, folder: Path) -> FeatureBundle:
        """Open the bundle in `folder`, read-only."""
        database = open_database(folder)
        try:
            return cls(folder, read_manifest(database, folder), database)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Let go of the files."""
        self._database.close()
        self._tokens.close()

    def __enter__(self) -> Self:
        """Return the bundle itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close the bundle."""
        self.close()

    def list_features(
        self,
        sort: SortKey = "density",
        *,
        descending: bool = True,
        where: FeatureFilter | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> FeatureList:
        """Features `offset` .. `offset + limit` of those that `where` lets through, sorted; equal
        ones by number, the same way round. Raises SpecError for an unknown sort and a page out
        of range."""
        condition, values = list_query(where or FeatureFilter())
        order, page = page_of(sort, descending=descending, offset=offset, limit=limit)
        # Pages are cut from an index alone: figures and labels are read of one page.
        chosen = f"FROM features f WHERE {condition}"
        ((total,),) = self._rows(f"SELECT count(*) {chosen}", values)
        cut = f"(SELECT f.feature {chosen} {order} LIMIT ? OFFSET ?)"
        joined = f"FROM {cut} JOIN features f USING (feature) LEFT JOIN labels l USING (feature)"
        rows = self._rows(f"SELECT {SUMMARY} {joined} {order}", (*values, *page))
        return FeatureList(total, tuple(FeatureSummary(*row) for row in rows))

    def summary(self, feature: int) -> FeatureSummary:
        """The line of one feature. Raises SpecError for one that the model does not have."""
        self._check(feature)
        query = f"SELECT {SUMMARY} FROM features f LEFT JOIN labels l USING (feature)"
        (row,) = self._rows(f"{query} WHERE f.feature = ?", (feature,))
        return FeatureSummary(*row)

    def feature(self, feature: int) -> Feature:
        """All that is known of one feature. Raises SpecError for one that the model does not
        have, DamagedError for bytes that are not those written."""
        summary = self.summary(feature)
        (sums,) = self._rows(
            "SELECT sum1, sum2, sum3, sum4 FROM features WHERE feature = ?", (feature,)
        )
        ((histogram, examples, logits, neighbours),) = self._rows(
            "SELECT histogram, examples, logits, neighbours FROM pages WHERE feature = ?",
            (feature,),
        )
        counts = np.frombuffer(histogram, "<u4")
        shown = unpack_examples(examples)
        contexts = self._windows.contexts(shown)
        groups = shown.records["group"].tolist()
        up, down = self._logits(logits)
        return Feature(
            summary=summary,
            label=next(iter(self._labels("labels", feature)), None),
            other_labels=self._labels("other_labels", feature),
            moments=sums,
            histogram=self._histogram(counts),
            top=tuple(c for c, g in zip(contexts, groups, strict=True) if g == TOP),
            uniform=tuple(c for c, g in zip(contexts, groups, strict=True) if g == UNIFORM),
            intervals=self._intervals(
                counts, [c for c, g in zip(contexts, groups, strict=True) if g == INTERVAL]
            ),
            logits_up=up,
            logits_down=down,
            neighbours=_neighbours(neighbours),
        )

    def contexts(self, feature: int, group: Group, limit: int) -> tuple[Context, ...]:
        """The first contexts of one group. Raises as `feature`."""
        self._check(feature)
        ((examples,),) = self._rows("SELECT examples FROM pages WHERE feature = ?", (feature,))
        chosen = of_group(unpack_examples(examples), _GROUPS[group], limit)
        return tuple(self._windows.contexts(chosen))

    def firing_features(self) -> int:
        """How many features fired at all."""
        ((count,),) = self._rows("SELECT count(*) FROM features WHERE density > 0")
        return count

    def labelled_features(self) -> int:
        """How many features have a label."""
        ((count,),) = self._rows("SELECT count(*) FROM labels")
        return count

    def histogram(self, feature: int) -> Histogram:
        """The histogram of one feature alone. Raises SpecError as `feature`."""
        self._check(feature)
        ((data,),) = self._rows("SELECT histogram FROM pages WHERE feature = ?", (feature,))
        return self._histogram(np.frombuffer(data, "<u4"))

    def search_token(self, text: str, limit: int = _SEARCHED) -> tuple[TokenFeatures, ...]:
        """Tokens whose text is `text`, or else begins with it, white space around it and case
        aside, those with most rows first, each with the features that fire most on it."""
        wanted = plain(text)
        if not wanted:
            return ()
        query = (
            "SELECT token, text, count FROM vocabulary WHERE {} ORDER BY count DESC, token LIMIT ?"
        )
        exact = self._rows(query.format("plain = ?"), (wanted, limit))
        found = exact or self._rows(
            query.format("plain >= ? AND plain < ?"), (wanted, wanted + chr(0x10FFFF), limit)
        )
        return tuple(
            TokenFeatures(token, shown, count, self.token_features(token))
            for token, shown, count in found
        )

    def token_features(self, token: int) -> tuple[TokenFeature, ...]:
        """The features that fire most on a token, first the one that does most."""
        query = "SELECT feature, score FROM token_features WHERE token = ? ORDER BY rank"
        return tuple(TokenFeature(*row) for row in self._rows(query, (token,)))

    def text(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """The text of each token."""
        known = self._texts(set(tokens))
        return tuple(known.get(token, "") for token in tokens)

    def summaries(self) -> Iterator[FeatureSummary]:
        """Every feature in its order, for exports."""
        query = f"SELECT {SUMMARY} FROM features f LEFT JOIN labels l USING (feature)"
        for row in self._database.execute(f"{query} ORDER BY f.feature"):
            yield FeatureSummary(*row)

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        try:
            return self._database.execute(query, tuple(values)).fetchall()
        except sqlite3.DatabaseError as error:
            raise DamagedError(
                f"the feature bundle cannot be read: {error}",
                remedy="collect the features of the model again",
            ) from error

    def _check(self, feature: int) -> None:
        if not 0 <= feature < self.manifest.d_sae:
            raise SpecError(
                "feature",
                f"{feature} is not in 0 .. {self.manifest.d_sae - 1}",
                remedy="name a latent that the model has",
            )

    def _labels(self, table: str, feature: int) -> tuple[Label, ...]:
        columns = "label, source, matched, fired, hits, patterns"
        query = f"SELECT {columns} FROM {table} WHERE feature = ? ORDER BY source"
        return tuple(label_of(*row) for row in self._rows(query, (feature,)))

    @cached_property
    def _edges(self) -> tuple[float, ...]:
        low = self.manifest.lowest_exponent
        return tuple(2.0 ** (low + edge / BINS_PER_OCTAVE) for edge in range(BINS + 1))

    def _histogram(self, counts: npt.NDArray[np.uint32]) -> Histogram:
        if len(counts) != BINS:
            raise DamagedError(f"a histogram has {len(counts)} bins, not {BINS}")
        return Histogram(self._edges, tuple(counts.tolist()))

    def _intervals(
        self, counts: npt.NDArray[np.uint32], contexts: list[Context]
    ) -> tuple[Interval, ...]:
        low = self.manifest.lowest_exponent
        groups: dict[int, list[Context]] = {}
        for context in contexts:
            octave = int(octave_of(np.asarray(context.value, np.float32), low))
            groups.setdefault(octave, []).append(context)
        octave_counts = counts.reshape(OCTAVES, BINS_PER_OCTAVE).sum(1).tolist()
        return tuple(
            Interval(
                2.0**octave,
                2.0 ** (octave + 1),
                octave_counts[octave - low],
                tuple(groups[octave]),
            )
            for octave in sorted(groups, reverse=True)
        )

    def _texts(self, tokens: set[int]) -> dict[int, str]:
        marks = ", ".join("?" * len(tokens))
        rows = self._rows(
            f"SELECT token, text FROM vocabulary WHERE token IN ({marks})", tuple(tokens)
        )
        return {schema.GAP: GAP_TEXT, **dict(rows)}

    def _logits(self, data: bytes | None) -> list[tuple[TokenScore, ...]]:
        if data is None:
            return [(), ()]
        ranked = unpack_ranked(data, 2)
        texts = self._texts({token for one in ranked for token in one.ids.tolist()})
        return [
            tuple(
                TokenScore(token, texts.get(token, ""), amount)
                for token, amount in zip(one.ids.tolist(), one.amounts.tolist(), strict=True)
            )
            for one in ranked
        ]


def _neighbours(data: bytes | None) -> tuple[Neighbour, ...]:
    if data is None:
        return ()
    (ranked,) = unpack_ranked(data)
    pairs = zip(ranked.ids.tolist(), ranked.amounts.tolist(), strict=True)
    return tuple(Neighbour(*pair) for pair in pairs)
