"""Count every step: the commands are in `table`."""

from __future__ import annotations

import sys

from bench.gpu.budgets import table
from bench.gpu.budgets.derived import JUMPRELU, TOPK, ratio
from bench.gpu.budgets.steps import SHAPES, count

DERIVED = {"S1 topk": TOPK, "S2 topk": TOPK, "S3 topk": TOPK, "S3 jumprelu": JUMPRELU}


def main(words: list[str]) -> None:
    """Count every step, print what was found, and write or compare the table."""
    budgets = table.read() if table.FILE.exists() else {}
    rows: dict[str, table.Row] = {}
    for name in table.names():
        shape, architecture = name.split()
        counts = count(architecture, SHAPES[shape])
        rows[name] = table.row_of(counts)
        print(name, rows[name], flush=True)
        for part, derived in DERIVED.get(name, {}).items():
            print(f"  {part}: {ratio(derived, SHAPES[shape], counts):.2f} of what was derived")
        for line in table.over(rows[name], budgets.get(name, {})):
            print(f"  over: {line}")
    if "--write" in words:
        table.write(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
