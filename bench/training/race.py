"""Contestants take turns: every one in a process of its own, all alive, one at work at a time.

Interleaved turns see the same machine, quiet or not; ratios are taken within a round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.training.contestant import Contestant

from saeserve.worker.child import DEFAULTS

LOG_LINES = 25
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Result:
    """What one contestant did."""

    contestant: Contestant
    turns: tuple[dict[str, float], ...]
    base_bytes: float
    """Resident after the interpreter and the libraries, before the system was made."""
    peak_bytes: float
    figures: dict[str, float]

    @property
    def seconds(self) -> tuple[float, ...]:
        """Time of each turn."""
        return tuple(turn["seconds"] for turn in self.turns)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """The inverse of `to_json`."""
        return cls(
            contestant=Contestant(**value["contestant"]),
            turns=tuple(value["turns"]),
            base_bytes=value["base_bytes"],
            peak_bytes=value["peak_bytes"],
            figures=value["figures"],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Track:
    """What all contestants share."""

    rows: Path
    threads: int


class Racer:
    """A contestant's process."""

    def __init__(self, contestant: Contestant, track: Track) -> None:
        self.contestant = contestant
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        own = dict(DEFAULTS) if contestant.as_job else {}
        if contestant.services:
            own |= _of_checkout(contestant.services)
        arguments = [str(track.threads), str(track.rows), json.dumps(_understood(contestant))]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "bench.training.child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # A module that is run is sought in the working directory first.
            cwd=Path(contestant.services or "services").resolve().parent,
            env={**os.environ, **own},  # noqa: TID251 - handed on, not read
        )
        self.base_bytes = 0.0

    def await_ready(self) -> None:
        """Wait until it could take its first turn. Raises RuntimeError when it has died."""
        self.base_bytes = self._read()["base_bytes"]

    def close(self) -> None:
        """End it, and reap it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def ask(self, what: str) -> dict[str, float]:
        """Have it do something and wait for the answer. Raises RuntimeError when it has died."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._read()

    def cpu_seconds(self) -> float:
        """What its process has used so far (Linux)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.contestant.label} has ended:\n{self._tail()}")
        return json.loads(line)

    def _tail(self) -> str:
        self._log.seek(0)
        return "\n".join(self._log.read().splitlines()[-LOG_LINES:])


def _of_checkout(services: str) -> dict[str, str]:
    """Import `saeserve` from there; `bench` is that of the same checkout, for modules move."""
    return {"PYTHONPATH": services}


def _understood(contestant: Contestant) -> dict[str, Any]:
    """Its fields as its process knows them: a `bench` of another checkout may have fewer."""
    fields = contestant.to_json()
    if contestant.services:
        del fields["services"]
    return fields


def race(contestants: Sequence[Contestant], track: Track) -> list[Result]:
    """Let them take turns until every one has done all of its steps."""
    with ExitStack() as stack:
        racers: list[Racer] = []
        for contestant in contestants:
            racers.append(Racer(contestant, track))
            stack.callback(racers[-1].close)
        for racer in racers:
            racer.await_ready()
        turns = _take_turns(racers)
        return [_finished(racer, found) for racer, found in zip(racers, turns, strict=True)]


def _take_turns(racers: Sequence[Racer]) -> list[list[dict[str, float]]]:
    found: list[list[dict[str, float]]] = [[] for _ in racers]
    for turn in range(racers[0].contestant.turns):
        began = time.perf_counter()
        for racer, turns in zip(racers, found, strict=True):
            used = racer.cpu_seconds()
            answer = racer.ask("turn")
            turns.append(answer | {"cpu_seconds": racer.cpu_seconds() - used})
        print(f"  round {turn + 1}: {time.perf_counter() - began:.0f} s", flush=True)
    return found


def _finished(racer: Racer, turns: Sequence[dict[str, float]]) -> Result:
    # The memory of training is read before the evaluation takes more.
    peak = racer.ask("weigh")["peak_bytes"]
    figures = racer.ask("finish") if racer.contestant.evaluate else {}
    return Result(racer.contestant, tuple(turns), racer.base_bytes, peak, figures)
