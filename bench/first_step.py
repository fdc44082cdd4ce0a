"""How long after its claim a train job makes its first step, on a real stack with default settings.

Several jobs, one after the other, with a pause before each in which the worker gets ready for it.
Times are those that the job leaves in the store: its claim, and its events. CPU seconds are the
job process's until it ended, so that a busy machine does not hide what a start costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.planted.synthetic import write_synthetic
from bench.training.processes import JOB, Account
from bench.training.stack import running

from saeserve.jobs.ledger import Ledger
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.roots import Roots

D_IN, ROWS, STEPS = 256, 20_000, 20
LOOK_S = 0.05


def spec(architecture: str, number: int) -> dict[str, Any]:
    return {
        "train": {
            "dataset": "rows",
            "model": f"m{number}",
            architecture: {},
            "d_sae": 2048,
            "tokens": STEPS * 1024,
            "batch_size": 1024,
            "log_every_steps": 1,
        }
    }


def measure(folder: Path, architecture: str, runs: int, pause_s: float) -> Iterator[dict[str, Any]]:
    datasets = DatasetRegistry(ArtifactStore(folder / "made"), Roots({}))
    dataset = datasets.create("rows").folder
    manifest = write_synthetic(
        dataset, name="rows", d=D_IN, n_features=512, active=16, rows=ROWS, seed=0
    )
    datasets.commit("rows", manifest.to_bytes())
    with running(folder, dataset) as (client, pids):
        ledger = Ledger(ArtifactStore(folder / "store"))
        for number in range(runs):
            time.sleep(pause_s)
            account = Account(pids)
            account.begin()
            job = client.jobs.submit(spec(architecture, number)).id
            while not (seen := client.jobs.get(job)).done:
                account.look()
                time.sleep(LOOK_S)
            if seen.state != "SUCCEEDED":
                raise SystemExit(f"{job} ended {seen.state}: {seen.error}")
            yield {**times(ledger, job), "job_cpu_s": round(account.seconds().get(JOB, 0.0), 2)}


def times(ledger: Ledger, job: str) -> dict[str, float]:
    """Seconds from the claim to each moment."""
    claim = ledger.store.path(f"{ledger.attempt_key(job, 1)}/claim.json")
    claimed = json.loads(claim.read_bytes())["time"]
    events = ledger.events(job)
    first = next(event for event in events if event.type == "metrics" and event.step >= 1)
    return {
        "to_attempt_started_s": round(events[0].time - claimed, 2),
        "to_first_step_s": round(first.time - claimed, 2),
        "to_end_s": round(events[-1].time - claimed, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="topk")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pause", type=float, default=8.0, help="seconds before each submit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saeserve-bench-") as folder:
        found: list[float] = []
        for each in measure(Path(folder), options.architecture, options.runs, options.pause):
            found.append(each["to_first_step_s"])
            print(json.dumps(each), flush=True)
    print(f"median {statistics.median(found):.2f} s from claim to first step")


if __name__ == "__main__":
    main()
