"""A sweep as one job, compared with its members as jobs of their own, each from
submission to its end.

The same services run both, with one worker, one after the other in rounds. Runs in .venv.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import smollm2
from bench.training.machine import machine
from bench.training.parts import SWEEP_MEMBERS, Setting
from bench.training.records import PARTS_FOLDER
from bench.training.stack import running
from bench.training.sweep_record import SweepJobs

from saeserve.client import Client


def main() -> None:
    """Run the rounds and write results/training/sweep_jobs.json."""
    asked = _parse()
    smollm2.check(asked.dataset)
    tokens = asked.tokens or _one_pass(asked, Setting().batch)
    found = SweepJobs(machine(), SWEEP_MEMBERS, tokens, (), ())
    with (
        tempfile.TemporaryDirectory(prefix="saeserve-bench-") as folder,
        running(Path(folder), asked.dataset) as (client, _pids),
    ):
        _seconds(client, [_spec(asked, tokens, "first")])
        for number in range(asked.rounds):
            found = found.with_round(
                _seconds(client, [_sweep(asked, tokens, f"sweep{number}")]),
                _seconds(client, _members(asked, tokens, f"alone{number}")),
            )
            print(f"  {found}", flush=True)
    found.save(asked.out / "sweep_jobs.json")


def _one_pass(asked: argparse.Namespace, batch: int) -> int:
    """The data set's training rows, in whole batches."""
    return smollm2.training_rows(asked.dataset, asked.source, 0).rows // batch * batch


def _spec(asked: argparse.Namespace, tokens: int, model: str) -> dict[str, Any]:
    """TopK at the setting of the other parts, in bfloat16."""
    setting = Setting()
    return {
        "dataset": asked.dataset.name,
        "source": asked.source,
        "model": model,
        "topk": {"k": setting.k},
        "d_sae": setting.d_sae,
        "tokens": tokens,
        "batch_size": setting.batch,
        "encoder_dtype": "bfloat16",
        "optimizer": {"lr": setting.lr, "warmup_steps": 10},
    }


def _sweep(asked: argparse.Namespace, tokens: int, model: str) -> dict[str, Any]:
    return _spec(asked, tokens, model) | {"sweep": {"seed": list(range(SWEEP_MEMBERS))}}


def _members(asked: argparse.Namespace, tokens: int, model: str) -> list[dict[str, Any]]:
    return [
        _spec(asked, tokens, f"{model}-{seed}") | {"seed": seed} for seed in range(SWEEP_MEMBERS)
    ]


def _seconds(client: Client, specs: Sequence[dict[str, Any]]) -> float:
    """From the first submission until the last job has ended. Raises RuntimeError for a failure."""
    began = time.monotonic()
    jobs = [client.jobs.submit({"train": spec}).id for spec in specs]
    for job in jobs:
        seen = client.jobs.wait(job)
        if seen.state != "SUCCEEDED":
            raise RuntimeError(f"the job ended {seen.state}: {seen.error}")
    return time.monotonic() - began


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.training.sweep_jobs", description=__doc__
    )
    smollm2.add_options(parser)
    parser.add_argument("--tokens", type=int, help="of a member; the data set once unless given")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=PARTS_FOLDER)
    return parser.parse_args()


if __name__ == "__main__":
    main()
