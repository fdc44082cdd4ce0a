"""Our training step of this checkout compared with that of another one, turn about.

`python -m bench.training.checkouts OTHER/services` with the packages of .venv. Both processes are
alive and one is at work at a time. Ratios are taken within a round, of elapsed time and of CPU
time, which other processes of the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from bench import smollm2
from bench.peers.setting import Architecture
from bench.training.contestant import OURS, Contestant, Dtype
from bench.training.parts import SETTLING_TURNS, Setting
from bench.training.race import Result, Track, race
from bench.training.rows import write

HERE = Path("services").resolve()
CLOCKS = ("seconds", "cpu_seconds")


def main() -> None:
    """Race each architecture and print how long a turn takes here, relative to there."""
    asked = _parse()
    smollm2.check(asked.dataset)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="saeserve-bench-") as folder:
        write(Path(folder), asked.dataset, asked.source, heldout_rows=smollm2.EVALUATED_AT_ONCE)
        track = Track(Path(folder), asked.threads)
        for architecture in asked.only:
            for dtype in asked.dtypes:
                here, there = race(_pair(asked, architecture, dtype), track)
                name = f"{architecture} {dtype}"
                found[name] = {clock: ratio(here, there, clock) for clock in CLOCKS}
                print(name, json.dumps(found[name]), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


def ratio(here: Result, there: Result, clock: str) -> float:
    """Median over the counted rounds of what a turn takes here over what it takes there."""
    pairs = zip(here.turns[SETTLING_TURNS:], there.turns[SETTLING_TURNS:], strict=True)
    return statistics.median(one[clock] / other[clock] for one, other in pairs)


def _pair(asked: argparse.Namespace, name: Architecture, dtype: Dtype) -> Sequence[Contestant]:
    setting = Setting(
        d_sae=asked.d_sae, batch=asked.batch, turn_steps=asked.turn_steps, pairs=asked.pairs
    )
    one = replace(setting.contestant(OURS, name, dtype), evaluate=False)
    return [replace(one, services=str(folder)) for folder in (HERE, asked.other.resolve())]


def _parse() -> argparse.Namespace:
    known = Setting()
    parser = argparse.ArgumentParser(prog="python -m bench.training.checkouts", description=__doc__)
    parser.add_argument("other", type=Path, help="the folder `services` of the other checkout")
    parser.add_argument("--only", nargs="+", choices=get_args(Architecture))
    parser.add_argument("--dtypes", nargs="+", choices=get_args(Dtype), default=["float32"])
    smollm2.add_options(parser)
    parser.add_argument("--d-sae", type=int, default=known.d_sae)
    parser.add_argument("--batch", type=int, default=known.batch)
    parser.add_argument("--turn-steps", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="a JSON file of the ratios")
    parser.set_defaults(only=list(get_args(Architecture)))
    return parser.parse_args()


if __name__ == "__main__":
    main()
