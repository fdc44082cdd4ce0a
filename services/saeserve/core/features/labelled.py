"""Labels as rows of a bundle, and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import numpy as np

from saeserve.core.features.values import Label
from saeserve.core.labels import label as made
from saeserve.core.labels.label import proportion

_VALUES = "VALUES (?, ?, ?, ?, ?, ?, ?)"


def write_labels(database: sqlite3.Connection, labels: Iterable[made.Label]) -> None:
    """Write labels, and what words are searched by."""
    for label in labels:
        table = "labels" if label.best else "other_labels"
        database.execute(f"INSERT INTO {table} {_VALUES}", _row(label))
    database.execute("INSERT INTO label_index(label_index) VALUES ('rebuild')")


def label_of(text: str, source: str, matched: int, fired: int, hits: int, patterns: bytes) -> Label:
    """The label of one row."""
    keys = np.frombuffer(patterns, "<u8").tolist()
    return Label(text, source, proportion(hits, matched), proportion(hits, fired), tuple(keys))


def _row(label: made.Label) -> tuple[int, str, str, int, int, int, bytes]:
    counts = (label.matched, label.fired, label.right)
    patterns = np.asarray(label.patterns, "<u8").tobytes()
    return label.feature, label.words, label.method.name.lower(), *counts, patterns
