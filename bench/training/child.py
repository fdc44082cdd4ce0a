"""A contestant's process: one JSON object a line in, one out.

`python -m bench.training.child THREADS ROWS_FOLDER CONTESTANT`, then lines that name ACTIONS.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import torch
from bench.training.contestant import OURS, Contestant
from bench.training.memory import peak_bytes, resident_bytes
from bench.training.rows import Rows
from bench.training.runners import Runner, runner_of


def main() -> None:
    """Serve until the input ends."""
    answers = _own_output()
    threads, folder, text = sys.argv[1:]
    contestant = Contestant(**json.loads(text))
    torch.set_num_threads(int(threads))
    if contestant.system == OURS:
        _settle()
    base = resident_bytes()
    runner = runner_of(contestant, Rows(Path(folder)))
    _answer(answers, {"base_bytes": base})
    for line in sys.stdin:
        name, _, argument = line.strip().partition(" ")
        _answer(answers, ACTIONS[name](runner, argument))


def _turn(runner: Runner, _argument: str) -> dict[str, float]:
    return runner.turn()


def _weigh(_runner: Runner, _argument: str) -> dict[str, float]:
    return {"peak_bytes": peak_bytes()}


def _finish(runner: Runner, _argument: str) -> dict[str, float]:
    return runner.finish()


def _save(runner: Runner, argument: str) -> dict[str, float]:
    runner.save(Path(argument))
    return {}


ACTIONS: dict[str, Callable[[Runner, str], dict[str, float]]] = {
    "turn": _turn,
    "weigh": _weigh,
    "finish": _finish,
    "save": _save,
}
"""By the first word of a line; the rest of it is the argument."""


def _settle() -> None:
    """Set torch like our job processes (saeserve.worker.runners.devices)."""
    # Sets the same switch as `use_deterministic_algorithms`, without importing torch's compiler.
    torch.set_deterministic_debug_mode("error")
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010


def _own_output() -> TextIO:
    """Standard output for answers alone: what libraries print goes to the log."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


def _answer(answers: TextIO, value: dict[str, float]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
