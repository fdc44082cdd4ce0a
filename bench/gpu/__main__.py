"""`python -m bench.gpu`: one command of at most `--budget` seconds on one GPU.

Writes a JSON record after every measurement and prints a table last. It runs from the source tree,
also where only torch and what the core needs is installed; the peers' part says which are absent.
`--device cpu --tiny` goes through the same code in seconds; its times mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

BEGAN = time.monotonic()
# Plain torch on the CPU too: there the same code as on the GPU is the reference, and numba's
# kernels would compile for a minute.
sys.modules["numba"] = None  # pyright: ignore[reportArgumentType] - Python's own way to forbid an import

import torch  # noqa: E402 - the clock starts before the imports
from bench.gpu import ceilings, correctness, speed, table  # noqa: E402
from bench.gpu.lab import Lab  # noqa: E402
from bench.results import FOLDER  # noqa: E402

SECONDS = {"ceilings": 30.0, "correctness": 80.0, "speed": 200.0}
RUNS = {"ceilings": ceilings.run, "correctness": correctness.run, "speed": speed.run}


def main(words: Sequence[str]) -> None:
    """Run the parts that were asked for."""
    asked = _parse(words)
    lab = Lab(torch.device(asked.device), asked.tiny, asked.out, BEGAN + asked.budget)
    for name in asked.only.split(","):
        lab.part(name, SECONDS[name], lambda run=RUNS[name]: run(lab))
    lab.data["seconds"]["all"] = round(time.monotonic() - BEGAN, 1)
    lab.save()
    print("\n".join(table.lines(lab.data)))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.gpu", description="Our step on a GPU, and peers'")
    parser.add_argument("--out", type=Path, default=FOLDER / "gpu" / "latest.json")
    parser.add_argument("--budget", type=float, default=340.0, help="seconds for everything")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, one repetition")
    parser.add_argument("--only", default=",".join(SECONDS), help="parts, by name")
    return parser.parse_args(words)


if __name__ == "__main__":
    main(sys.argv[1:])
