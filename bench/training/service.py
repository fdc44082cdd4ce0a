"""What the services cost on top of a train job, and whether it keeps to the planned memory.

The job is a real one in services as `saeserve up` runs them (see `stack`). Runs in .venv.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import smollm2
from bench.training.machine import machine
from bench.training.parts import Setting
from bench.training.processes import Account
from bench.training.records import PARTS_FOLDER
from bench.training.service_record import ServiceCost
from bench.training.stack import running

from saeserve.client import Client
from saeserve.client.values import Job

LOOK_SECONDS = 0.1
ASK_SECONDS = 2.0
"""How often a client asks how the job is, which is work for control too."""


def main() -> None:
    """Run one job and write results/training/service.json."""
    asked = _parse()
    smollm2.check(asked.dataset)
    with tempfile.TemporaryDirectory(prefix="saeserve-bench-") as folder:
        found = measure(Path(folder), asked.dataset, spec(asked))
    found.save(asked.out / "service.json")
    print(found)


def spec(asked: argparse.Namespace) -> dict[str, Any]:
    """The job: TopK at the setting of the other parts, in bfloat16."""
    setting = Setting()
    return {
        "train": {
            "dataset": asked.dataset.name,
            "source": asked.source,
            "model": "bench",
            "topk": {"k": setting.k},
            "d_sae": setting.d_sae,
            "tokens": asked.tokens,
            "batch_size": setting.batch,
            "encoder_dtype": "bfloat16",
            "optimizer": {"lr": setting.lr, "warmup_steps": 10},
        }
    }


def measure(folder: Path, dataset: Path, job_spec: dict[str, Any]) -> ServiceCost:
    """Start everything, run the job, stop everything."""
    with running(folder, dataset) as (client, pids):
        return _cost(client, Account(pids), job_spec)


def _cost(client: Client, account: Account, job_spec: dict[str, Any]) -> ServiceCost:
    planned = client.jobs.plan(job_spec)[1]
    account.begin()
    began = time.monotonic()
    job = _followed(client, account, client.jobs.submit(job_spec).id)
    seconds = time.monotonic() - began
    if job.state != "SUCCEEDED":
        raise RuntimeError(f"the job ended {job.state}: {job.error}")
    return ServiceCost(
        machine=machine(),
        spec=job_spec,
        seconds=seconds,
        cpu_seconds=account.seconds(),
        planned_bytes=planned.memory_bytes,
        peak_bytes=account.job_peak_bytes,
        metrics=dict(job.outputs[0].metrics),
    )


def _followed(client: Client, account: Account, job: str) -> Job:
    """Read the clocks until the job has ended."""
    asked = 0.0
    while True:
        account.look()
        if time.monotonic() - asked > ASK_SECONDS:
            asked = time.monotonic()
            seen = client.jobs.get(job)
            if seen.done:
                return seen
        time.sleep(LOOK_SECONDS)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.training.service", description=__doc__)
    smollm2.add_options(parser)
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--out", type=Path, default=PARTS_FOLDER)
    return parser.parse_args()


if __name__ == "__main__":
    main()
