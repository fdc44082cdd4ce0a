"""The table of what is kept and what is refused: configs of published models and of files that the
real libraries wrote, old releases included, with small weights; the library's formula in float64.

A row of `published/*.json` names the config and its source, the folder that the files lie in, how
the library computes the model, and what the import must say: input and output, the writer, the
codes of its warnings; or the refusal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import peers, published
from tests.fakes.published import Row

from saeserve.core.peers.files import ForeignFiles
from saeserve.core.peers.foreign import Imported
from saeserve.core.peers.registry import import_model
from saeserve.errors import FormatError

TABLES = Path(__file__).parent / "published"
ROWS: list[Row] = [
    Row(**values)
    for table in sorted(TABLES.glob("*.json"))
    for values in published.renamed(json.loads(table.read_text()))
]
KEPT = [row for row in ROWS if not row.refused]
REFUSED = [row for row in ROWS if row.refused]


def named(rows: list[Row]) -> Any:  # noqa: ANN401 - a decorator
    return pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])


def imported(row: Row, root: Path) -> Imported:
    files = ForeignFiles.at(published.write(row, root))
    return import_model(files, published.format_of(row))


def test_the_table_is_as_large_as_it_must_be() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 40
    assert sum(row.old for row in ROWS) >= 10
    assert all(row.origin for row in ROWS)


@named(KEPT)
def test_a_model_computes_what_its_library_computed(row: Row, tmp_path: Path) -> None:
    found = imported(row, tmp_path)
    x_BD = peers.rows()
    features, reconstruction = published.expected(row, x_BD)
    peers.assert_same(found, features, reconstruction, x_BD)


@named(KEPT)
def test_a_model_keeps_its_place_its_writer_and_its_config(row: Row, tmp_path: Path) -> None:
    config = imported(row, tmp_path).model.config
    assert [config.inputs[0].name, config.outputs[0].name] == [row.source, row.target or row.source]
    assert config.transcodes is bool(row.target)
    history: Any = config.lineage.spec
    assert row.writer in history["writer"]
    if row.config is not None:
        assert history["foreign_config"] == row.config
    assert [warning.code for warning in config.lineage.warnings] == row.warned
    assert len(history.get("readings", ())) == row.warned.count("READ_TWO_WAYS")


@named(REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(row: Row, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=row.refused):
        imported(row, tmp_path)
