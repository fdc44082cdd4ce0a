"""`make interop`: what agrees with the real libraries, as a table; fails when anything does not.

Runs in .venv-peers, where saeserve's core and nothing of its services can be imported.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

import torch
from tests.interop import exports, imports, transcoders
from tests.interop.compare import LIMIT, Outcome


def main() -> int:
    """1 when a line does not pass."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lines = itertools.chain(
            exports.outcomes(root / "exports"),
            imports.outcomes(root / "imports"),
            transcoders.outcomes(root / "transcoders"),
        )
        found = [_told(line) for line in lines]
    failed = [line for line in found if not line.passes]
    compared = sum(line.features is not None for line in found)
    sys.stdout.write(
        f"\n{compared - len(failed)} of {compared} agree within {LIMIT:g} of a row's largest "
        f"value; {len(found) - compared} exports are refused\n"
    )
    return 1 if failed else 0


def _told(line: Outcome) -> Outcome:
    figures = line.note
    if line.features is not None and line.reconstruction is not None:
        verdict = "ok" if line.passes else "FAILS"
        figures = f"features {line.features:.1e}  output {line.reconstruction:.1e}  {verdict}"
    sys.stdout.write(f"{line.direction:8}{line.library:20} {line.form:51} {figures}\n")
    return line


if __name__ == "__main__":
    sys.exit(main())
