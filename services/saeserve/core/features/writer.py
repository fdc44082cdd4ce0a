"""Writes a bundle from a collected state. The form: `schema`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saeserve.core.durable import sync
from saeserve.core.features import schema
from saeserve.core.features.canonical import in_order, slots_of
from saeserve.core.features.labelled import write_labels
from saeserve.core.features.packing import INTERVAL, TOP, UNIFORM, pack_examples, pack_ranked
from saeserve.core.features.state import Collected, CollectSettings
from saeserve.core.labels.label import Label
from saeserve.errors import NoSpaceError

CHUNK = 4096
"""Features written at a time: what memory the writer needs."""
_BUSY = ("disk I/O error", "database or disk is full")


@dataclass(frozen=True)
class RankedRows:
    """For every feature, ids and amounts: arrays [d_sae, n] (neighbours) or [d_sae, 2, n] (logits
    up and down)."""

    ids: npt.NDArray[np.int32]
    amounts: npt.NDArray[np.float32]

    def packed(self, feature: int) -> bytes:
        """The blob of one feature."""
        return pack_ranked(self.ids[feature], self.amounts[feature])


@dataclass(frozen=True)
class BundleExtras:
    """What a bundle has besides the collected state."""

    token_texts: Mapping[int, str]
    """The text of every token that `tokens.npy` or the logits name, as far as it is known."""
    neighbours: RankedRows | None = None
    logits: RankedRows | None = None
    labels: Iterable[Label] = ()


def write_database(
    path: Path, manifest: schema.BundleManifest, collected: Collected, extras: BundleExtras
) -> None:
    """Write `features.sqlite` at `path`, which must not exist, and make it durable.

    The manifest comes last, so that a database cut off before is known by its absence; that the
    whole bundle is seen at once is up to the caller's rename. Raises NoSpaceError.
    """
    try:
        # Nothing reads the file before it is whole: neither a journal nor locks are needed.
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
            database.executescript(schema.TABLES)
            database.execute("BEGIN")
            _write_features(database, manifest, collected, extras)
            _write_tokens(database, collected, extras.token_texts)
            write_labels(database, extras.labels)
            database.execute("COMMIT")
            database.executescript(schema.INDEXES)
            value = manifest.model_dump_json()
            database.execute("INSERT INTO meta VALUES ('manifest', ?)", (value,))
    except sqlite3.OperationalError as error:
        if str(error) in _BUSY:
            raise NoSpaceError(
                f"the feature bundle cannot be written: {error}", remedy="free space on the store"
            ) from error
        raise
    sync(path)


def write_tokens(
    folder: Path, token_ids: npt.NDArray[np.int32], sequences: npt.NDArray[np.int64]
) -> None:
    """Write `tokens.npy` and `sequences.npy` and make them durable. Raises NoSpaceError.

    `token_ids` [tokens] may be memory-mapped; `sequences` is [sequences, 3].
    """
    arrays = ((schema.TOKEN_FILE, token_ids, "<i4"), (schema.SEQUENCE_FILE, sequences, "<i8"))
    try:
        for name, array, dtype in arrays:
            with open(folder / name, "xb") as file:
                np.save(file, array.astype(dtype, copy=False), allow_pickle=False)
            sync(folder / name)
    except OSError as error:
        raise NoSpaceError(
            f"the tokens of the feature bundle cannot be written: {error}",
            remedy="free space on the store",
        ) from error


def _write_features(
    database: sqlite3.Connection,
    manifest: schema.BundleManifest,
    collected: Collected,
    extras: BundleExtras,
) -> None:
    rows = max(1, manifest.rows)
    moments_FP = collected.moments()
    mean_F = moments_FP[:, 0] / np.maximum(collected.count_F, 1)
    columns = (collected.count_F, collected.count_F / rows, collected.max_F, mean_F, *moments_FP.T)
    lists = [np.asarray(column).tolist() for column in columns]
    features = zip(range(collected.settings.d_sae), *lists, strict=True)
    database.executemany(f"INSERT INTO features VALUES ({'?, ' * 8}?)", features)
    database.executemany("INSERT INTO pages VALUES (?, ?, ?, ?, ?)", _pages(collected, extras))


_Page = tuple[int, bytes, bytes, bytes | None, bytes | None]


def _pages(collected: Collected, extras: BundleExtras) -> Iterator[_Page]:
    group_S = _groups(collected.settings)
    for start in range(0, collected.settings.d_sae, CHUNK):
        part = in_order(slots_of(collected, start, start + CHUNK), collected.settings)
        for index in range(len(part.position_CS)):
            feature = start + index
            yield (
                feature,
                collected.histogram_FB[feature].astype("<u4").tobytes(),
                pack_examples(part.examples(index, group_S)),
                extras.logits and extras.logits.packed(feature),
                extras.neighbours and extras.neighbours.packed(feature),
            )


def _groups(settings: CollectSettings) -> npt.NDArray[np.uint8]:
    """The group of each slot."""
    counts = (settings.top, settings.uniform, settings.intervals * settings.per_interval)
    return np.repeat(np.asarray((TOP, UNIFORM, INTERVAL), np.uint8), counts)


def _write_tokens(
    database: sqlite3.Connection, collected: Collected, texts: Mapping[int, str]
) -> None:
    counts_V = collected.token_count_V
    seen = set(np.flatnonzero(counts_V).tolist()) | set(texts)
    database.executemany(
        "INSERT INTO vocabulary VALUES (?, ?, ?, ?)",
        (_vocabulary_row(token, texts, counts_V) for token in sorted(seen)),
    )
    database.executemany("INSERT INTO token_features VALUES (?, ?, ?, ?)", _token_rows(collected))


def _vocabulary_row(
    token: int, texts: Mapping[int, str], counts_V: npt.NDArray[np.int64]
) -> tuple[int, str, str, int]:
    text = texts.get(token, "")
    count = int(counts_V[token]) if token < len(counts_V) else 0
    return token, text, plain(text), count


def plain(text: str) -> str:
    """The text that a token is searched by: without white space around it, case folded."""
    return text.strip().casefold()


def _token_rows(collected: Collected) -> Iterator[tuple[int, int, int, float]]:
    score_VR, feature_VR = collected.token_score_VR, collected.token_feature_VR
    order_VR = np.lexsort((feature_VR, np.where(feature_VR < 0, np.inf, -score_VR)), axis=1)
    features = np.take_along_axis(feature_VR, order_VR, 1)
    scores = np.take_along_axis(score_VR, order_VR, 1)
    tokens, ranks = np.nonzero(features >= 0)
    kept = features[tokens, ranks].tolist(), scores[tokens, ranks].tolist()
    yield from zip(tokens.tolist(), ranks.tolist(), *kept, strict=True)
