"""The table of budgets: what a step of each architecture may do at each shape.

python -m bench.gpu.budgets            counts, and says what is over its budget
python -m bench.gpu.budgets --write    makes what was counted the budgets
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from bench.gpu.budgets.counting import Counts
from bench.gpu.budgets.steps import ARCHITECTURES, SHAPES

FILE = Path(__file__).with_name("budgets.json")
TOLERANCE = 1.01
"""Counts are exact; a version of torch may take a few operations more."""
Row = dict[str, Any]


def names() -> list[str]:
    """Rows of the table: a shape and an architecture."""
    return [f"{shape} {name}" for shape in SHAPES for name in ARCHITECTURES]


def row_of(counts: Counts) -> Row:
    """What the table holds of a step."""
    return {
        "product_tflop": {
            kind: round(flops / 1e12, 4) for kind, flops in sorted(counts.product_flops.items())
        },
        "gb": _giga(counts.bytes),
        "gathered_gb": _giga(counts.gathered),
        "peak_gb": _giga(counts.peak),
        "torch_operations": counts.operations.total(),
        "kernels": len(counts.launches),
        "widest_bytes": counts.widest,
        "waits": dict(sorted(counts.waits.items())),
    }


def over(found: Row, budget: Row) -> Iterator[str]:
    """What exceeds its budget, in words."""
    for name, value in _flat(found).items():
        allowed = _flat(budget).get(name, 0)
        if value > allowed * TOLERANCE:
            yield f"{name} is {value:g} and may be {allowed:g}"


def read() -> dict[str, Row]:
    """The table."""
    found: dict[str, Row] = json.loads(FILE.read_text())
    return found


def write(rows: Mapping[str, Row]) -> None:
    """Make these the table."""
    FILE.write_text(json.dumps(rows, indent=1) + "\n")


def _giga(size: int) -> float:
    return round(size / 1e9, 3)


def _flat(row: Row) -> dict[str, float]:
    """Numbers by name; those of a group as `group.name`."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            group = cast("dict[str, float]", value)
            flat |= {f"{name}.{key}": number for key, number in group.items()}
        else:
            flat[name] = value
    return flat
