"""Our training step raced with SAELens, dictionary_learning and sparsify: runs in .venv-peers."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from bench import smollm2
from bench.training.machine import machine
from bench.training.parts import PARTS, Setting
from bench.training.race import Track
from bench.training.records import PARTS_FOLDER, Part
from bench.training.rows import Header, write

HELDOUT_ROWS = 8192


def main() -> None:
    """Run the parts and write results/training/<part>.json."""
    asked = _parse()
    smollm2.check(asked.dataset)
    setting = Setting(
        d_sae=asked.d_sae,
        k=asked.k,
        batch=asked.batch,
        lr=asked.lr,
        turn_steps=asked.turn_steps,
        pairs=asked.pairs,
        peers_as_jobs=asked.peers_as_jobs,
    )
    with tempfile.TemporaryDirectory(prefix="saeserve-bench-") as folder:
        header = write(Path(folder), asked.dataset, asked.source, heldout_rows=HELDOUT_ROWS)
        for name in asked.only:
            _run(name, setting, Track(Path(folder), asked.threads), header, asked.out)


def _run(name: str, setting: Setting, track: Track, header: Header, out: Path) -> None:
    began = time.perf_counter()
    print(f"{name}:", flush=True)
    races = PARTS[name](setting, track)
    seconds = time.perf_counter() - began
    told = asdict(setting) | {"threads": track.threads}
    Part(name, machine(), told, asdict(header), seconds, races).save(out)
    print(f"{name}: {seconds / 60:.1f} min", flush=True)


def _parse() -> argparse.Namespace:
    known = Setting()
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    smollm2.add_options(parser)
    parser.add_argument("--d-sae", type=int, default=known.d_sae)
    parser.add_argument("--k", type=int, default=known.k)
    parser.add_argument("--batch", type=int, default=known.batch)
    parser.add_argument("--lr", type=float, default=known.lr)
    parser.add_argument("--turn-steps", type=int, default=known.turn_steps)
    parser.add_argument("--pairs", type=int, default=known.pairs)
    parser.add_argument(
        "--peers-as-jobs", action="store_true", help="peers in the environment of our jobs"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=PARTS_FOLDER)
    return parser.parse_args()


if __name__ == "__main__":
    main()
