"""Rewrite the golden curves: `python -m tests.golden.rewrite [architecture ...]`.

Only after a change that is meant to alter training; the commit says why.
"""

from __future__ import annotations

import sys

from tests.golden.curves import write_golden

from saeserve.core.architectures.registry import ARCHITECTURES


def main(names: list[str]) -> None:
    """Rewrite the curves of `names`, or of every architecture."""
    for name in names or sorted(ARCHITECTURES):
        sys.stdout.write(f"{write_golden(name)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
