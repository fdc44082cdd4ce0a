"""Count every step: the commands are in `table`."""

from __future__ import annotations

import sys

from bench.gpu.budgets import table
from bench.gpu.budgets.derived import TOPK, ratio
from bench.gpu.budgets.steps import SHAPES, count


def main(words: list[str]) -> None:
    """Count every step, print what was found, and write or compare the table."""
    budgets = table.read() if table.FILE.exists() else {}
    rows: dict[str, table.Row] = {}
    for name in table.names():
        shape, architecture = name.split()
        counts = count(architecture, SHAPES[shape])
        rows[name] = table.row_of(counts)
        print(name, rows[name], flush=True)
        if architecture == "topk":
            found = {part: ratio(TOPK[part], SHAPES[shape], counts) for part in TOPK}
            print("  of what was derived:", {part: f"{r:.2f}" for part, r in found.items()})
        for line in table.over(rows[name], budgets.get(name, {})):
            print(f"  over: {line}")
    if "--write" in words:
        table.write(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
