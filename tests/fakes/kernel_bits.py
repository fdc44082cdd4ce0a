"""A program that runs every compiled kernel and prints what bits each of them wrote.

`python -m tests.fakes.kernel_bits [RUN ...]` prints one JSON object (`Bits`) of the named runs of
`kernel_runs`, or of all. Kernels and their helpers are
found by importing all of `saeserve.core`, so a new one is in the lists without being added here.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch

import saeserve.core
from saeserve.core.kernels import compiled

TRITON = ("saeserve.core.gpu.", "saeserve.core.architectures.topk.on_device")
"""Modules that need Triton, which may be missing; they hold nothing of numba's."""


class Bits(TypedDict):
    """What a process found."""

    kernels: dict[str, str]
    """Digest of all arrays that a kernel was given, after each of its calls, by its name."""
    weights: dict[str, str]
    """Digest of what each run of `kernel_runs` ended with, by its name."""
    idle: list[str]
    """Kernels and helpers that were never called."""
    compiled: list[str]
    """Helpers that were compiled by this process, not loaded from numba's cache."""


class Recorder:
    """Takes the place of `compiled.kernel` and notes what kernels write."""

    def __init__(self) -> None:
        self.digests: dict[str, Any] = {}
        self.called: set[str] = set()
        self._kernel: Callable[..., Any] = compiled.kernel

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The kernel of a function, with notes."""
        call, name = self._kernel(function), f"{function.__module__}.{function.__qualname__}"
        digest = self.digests[name] = hashlib.sha256()

        @functools.wraps(function)
        def record(*args: object) -> object:
            answer = call(*args)
            self.called.add(name)
            for array in arrays((*args, answer)):
                digest.update(np.ascontiguousarray(array).tobytes())
            return answer

        return record


def arrays(values: Iterable[object]) -> Iterable[np.ndarray[Any, Any]]:
    """Those among the values and in their tuples."""
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, tuple):
            yield from arrays(cast("tuple[object, ...]", value))


def in_fresh_process(cache: Path, *runs: str) -> Bits:
    """What this program prints, with machine code kept in `cache`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.kernel_bits", *runs],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def helpers() -> dict[str, Any]:
    """The core's functions that kernels call, as numba's dispatchers, by name."""
    found: dict[str, Any] = {}
    dispatcher = importlib.import_module("numba.core.dispatcher").Dispatcher
    for listed in pkgutil.walk_packages(saeserve.core.__path__, "saeserve.core."):
        if listed.name.startswith(TRITON):
            continue
        for value in vars(importlib.import_module(listed.name)).values():
            if isinstance(value, dispatcher):
                found[f"{value.py_func.__module__}.{value.py_func.__qualname__}"] = value
    return found


def main() -> None:
    """Run everything and print the digests."""
    recorder = Recorder()
    setattr(compiled, "kernel", recorder)  # noqa: B010 - before the first kernel is made
    functions = helpers()
    torch.set_num_threads(2)
    # Memory that a kernel leaves as it was would differ between processes.
    torch.use_deterministic_algorithms(True)
    runs = importlib.import_module("tests.fakes.kernel_runs").RUNS
    found: Bits = {
        "weights": {name: _digest(runs[name]()) for name in sys.argv[1:] or runs},
        "kernels": {name: digest.hexdigest() for name, digest in recorder.digests.items()},
        "idle": sorted(set(recorder.digests) - recorder.called)
        + sorted(name for name, function in functions.items() if not function.signatures),
        "compiled": sorted(n for n, f in functions.items() if sum(f.stats.cache_misses.values())),
    }
    sys.stdout.write(json.dumps(found))


def _digest(tensors: Iterable[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
