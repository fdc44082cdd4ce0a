"""The standby process: has everything loaded and waits for an order, then is a job process.

It holds no memory of a device and opens nothing of the store before it has an order. On its way it
writes a line for each thing it has done (`Word`) to a pipe; the order comes as one line on its
standard input, whose end without an order ends it.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
from enum import StrEnum

from saeserve.platform.process import die_with_parent, show_command
from saeserve.worker.order import JobOrder, command

_RUNNERS = ("train", "train_sweep", "evaluate", "ingest", "import_model", "export_model")
"""All but those that load transformers (harvest, generate, annotate, collect): 2 s and 120 MiB that
few jobs need."""
_STDIN = 0
ROOM = 8192
"""Bytes of the command line that are kept free for the order."""


class Word(StrEnum):
    """What the standby process says, in this order; TAKEN may come before WARM."""

    LOADED = "loaded"
    """Every module is imported."""
    WARM = "warm"
    """Kernels are loaded or compiled."""
    TAKEN = "taken"
    """It has read the order."""


def main() -> None:
    """Arguments: the worker's process id, the pipe to write to, threads of torch."""
    parent, pipe, threads = (int(word) for word in sys.argv[1:4])
    try:
        # The signal's own way, death, is right until there is a job to stop.
        die_with_parent(parent, signal.SIGTERM)
    except ProcessLookupError:
        # The worker was killed while this process started: nobody can give it an order.
        return
    _load(threads)
    _say(pipe, Word.LOADED)
    _warm(pipe)
    line = sys.stdin.readline()
    if not line:
        return
    _say(pipe, Word.TAKEN)
    os.close(pipe)
    _become(JobOrder.model_validate_json(line))


def _load(threads: int) -> None:
    for name in _RUNNERS:
        importlib.import_module(f"saeserve.worker.runners.{name}")
    from saeserve.worker.runners.devices import settle_torch

    settle_torch(threads)


def _warm(pipe: int) -> None:
    """Leaves off between two architectures when an order waits, or the worker is gone."""
    from saeserve.core.training.warming import warm_up

    for _ in warm_up():
        if select.select([_STDIN], [], [], 0)[0]:
            return
    _say(pipe, Word.WARM)


def _become(order: JobOrder) -> None:
    from saeserve.worker.job_process import perform

    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STDIN)
    os.close(nothing)
    show_command(command(order))
    perform(order)


def _say(pipe: int, word: Word) -> None:
    os.write(pipe, f"{word}\n".encode())


if __name__ == "__main__":
    main()
