"""Results on disk: a file for each part, and training.json, the list that is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.results import FOLDER
from bench.training.contestant import LIMIT
from bench.training.figures import fraction_of_limit, tokens_per_second
from bench.training.race import Result

PARTS_FOLDER = FOLDER / "training"
ROWS_FILE = FOLDER / "training.json"
MAIN_RACES = ("topk", "batchtopk", "matryoshka", "jumprelu_sparse")
"""Whose contestants stand in training.json; JumpReLU's at L0 = 64."""


@dataclass(frozen=True)
class Row:
    """An entry of training.json."""

    system: str
    architecture: str
    d_in: int
    d_sae: int
    k: int | None
    batch: int
    dtype: str
    """Type of the encoder GEMM."""
    tokens_per_second: float
    peak_bytes: int
    """VmHWM of a process that did nothing else, libraries included."""
    fraction_of_limit: float
    """Share of the limit with a GEMM of `dtype`."""
    fvu: float
    """On held-out rows, after the same tokens as all others of the architecture."""


@dataclass(frozen=True)
class Part:
    """Everything of one part."""

    name: str
    machine: dict[str, Any]
    setting: dict[str, Any]
    rows: dict[str, Any]
    """Header of the rows that were trained on."""
    seconds: float
    races: Mapping[str, Sequence[Result]]

    def save(self, folder: Path) -> None:
        """Write `<folder>/<name>.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        races = {name: [r.to_json() for r in results] for name, results in self.races.items()}
        value = {**vars(self), "races": races}
        (folder / f"{self.name}.json").write_text(json.dumps(value, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Part:
        """Read what `save` wrote. Raises FileNotFoundError."""
        value = json.loads(path.read_text())
        races = {
            name: [Result.from_json(r) for r in results] for name, results in value["races"].items()
        }
        return cls(**value | {"races": races})


def known_races(parts: Sequence[Part]) -> dict[str, Sequence[Result]]:
    """The races of all parts by name."""
    return {name: results for part in parts for name, results in part.races.items()}


def rows_of(results: Sequence[Result], d_in: int) -> list[Row]:
    """The entries of one race."""
    limit = next(result for result in results if result.contestant.system == LIMIT)
    return [_row(result, limit, d_in) for result in results if result is not limit]


def _row(result: Result, limit: Result, d_in: int) -> Row:
    who = result.contestant
    return Row(
        system=who.system,
        architecture=who.architecture,
        d_in=d_in,
        d_sae=who.d_sae,
        k=None if who.architecture == "jumprelu" else who.k,
        batch=who.batch,
        dtype=who.dtype,
        tokens_per_second=tokens_per_second(result),
        peak_bytes=int(result.peak_bytes),
        fraction_of_limit=fraction_of_limit(result, limit, d_in, who.dtype),
        fvu=result.figures["fvu"],
    )


def save_rows(parts: Sequence[Part], path: Path) -> None:
    """Write training.json from the parts that there are."""
    found: list[Row] = []
    for part in parts:
        for name, results in part.races.items():
            if name in MAIN_RACES:
                found += rows_of(results, part.rows["d"])
    path.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
