"""`python -m bench.gpu`: one command of at most `--budget` seconds on one GPU.

Writes a JSON record after every measurement and prints a table last. It runs from the source tree,
also where only torch and what the core needs is installed; the peers' part says which are absent.
`--device cpu --tiny` goes through the same code in seconds, with TRITON_INTERPRET=1 through the
kernels too; its times mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BEGAN = time.monotonic()
# Plain torch on the CPU too: there the same code as on the GPU is the reference, and numba's
# kernels would compile for a minute.
sys.modules["numba"] = None  # pyright: ignore[reportArgumentType] - Python's own way to forbid an import

from saeserve.worker.child import DEFAULTS  # noqa: E402 - the clock starts before the imports

# As in job processes, and before CUDA starts: without it cuBLAS promises no equal bits.
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
os.environ.setdefault(WORKSPACE, DEFAULTS[WORKSPACE])  # noqa: TID251 - set for torch, not read

import torch  # noqa: E402
from bench.gpu import (  # noqa: E402
    ceilings,
    compiling,
    correctness,
    encoding,
    jobs,
    kernels,
    profiling,
    speed,
    table,
)
from bench.gpu.lab import Lab  # noqa: E402
from bench.results import FOLDER  # noqa: E402

from saeserve.core.gpu.device import switched_off  # noqa: E402

PARTS = {
    "compiling": (70.0, compiling.run),
    "ceilings": (20.0, ceilings.run),
    "kernels": (35.0, kernels.run),
    "encoding": (15.0, encoding.run),
    "correctness": (60.0, correctness.run),
    "jobs": (35.0, jobs.run),
    "speed": (150.0, speed.run),
    "profiling": (15.0, profiling.run),
    "ceilings again": (5.0, ceilings.again),
}
"""Seconds that each part may take, correctness before speed."""
INTERPRETED = ("kernels", "encoding")


def main(words: Sequence[str]) -> None:
    """Run the parts that were asked for."""
    asked = _parse(words)
    lab = Lab(torch.device(asked.device), asked.tiny, asked.out, BEGAN + asked.budget)
    if asked.task:
        with _plain(lab, asked.task):
            compiling.tasks()[asked.task](lab)
        return
    for name in asked.only.split(","):
        seconds, run = PARTS[name]
        lab.part(name, seconds, lambda name=name, run=run: _run(lab, name, run))
    lab.data["seconds"]["all"] = round(time.monotonic() - BEGAN, 1)
    lab.save()
    print("\n".join(table.lines(lab.data)))


def _run(lab: Lab, name: str, run: Callable[[Lab], None]) -> None:
    with _plain(lab, name):
        run(lab)


def _plain(lab: Lab, name: str) -> contextlib.AbstractContextManager[None]:
    """On a CPU, where kernels are interpreted, only the parts that are about them use them."""
    plain = not lab.cuda and not name.startswith(INTERPRETED)
    return switched_off() if plain else contextlib.nullcontext()


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.gpu", description="Our step on a GPU, and peers'")
    parser.add_argument("--out", type=Path, default=FOLDER / "gpu" / "latest.json")
    parser.add_argument("--budget", type=float, default=340.0, help="seconds for everything")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, one repetition")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by name")
    parser.add_argument("--task", default="", help="only this one of `compiling.tasks`")
    return parser.parse_args(words)


if __name__ == "__main__":
    main(sys.argv[1:])
