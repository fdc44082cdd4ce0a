"""Does a plan's peak hold? Real train jobs in processes of their own, compared with their
plans.

Each case trains a few steps as a worker would have it: read, initialise, step, checkpoint,
evaluate, export, publish. The peak is the kernel's VmHWM of the job process. Speed is that of the
same job against the plan, which is scaled from the cases of the same architecture before it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from bench.planted.synthetic import write_synthetic

from saeserve.core.formats.train_sources import layout_of
from saeserve.core.planning.machine import Fleet, Machine
from saeserve.core.planning.plan import Plan, plan_training
from saeserve.core.planning.sizes import training_data
from saeserve.core.specs.training import TrainSpec
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Submission
from saeserve.platform.memory import limit_bytes
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.roots import Roots
from saeserve.registry.speeds import SpeedBook
from saeserve.worker.child import DEFAULTS
from saeserve.worker.hardware import processor_name
from saeserve.worker.order import JobOrder, command

D_IN = 576
STEPS, ALIVE_STEPS = 22, 3
"""Latents are dead after a tenth of the run without firing, that is from the fourth step on. Plans
predict the speed of the steps before, and memory for AuxK at work too."""
ROWS = 40_000
POLL_S = 0.05
KIND = "bench"
OUT = Path(__file__).parent / "results" / "memory.json"
QUICK = "topk:16384:2048 jumprelu:8192:1024"
WHOLE = (
    "topk:9216:2048 topk:32768:2048 topk:131072:2048 topk:32768:8192/2048 batchtopk:32768:2048 "
    "matryoshka:32768:2048 jumprelu:9216:2048 jumprelu:32768:2048 relu:16384:2048 gated:16384:2048"
)
"""architecture:d_sae:batch_size[/micro_batch_size]"""


@dataclass(frozen=True)
class Case:
    architecture: str
    d_sae: int
    batch_size: int
    micro_batch_size: int

    @classmethod
    def parse(cls, text: str) -> Case:
        architecture, d_sae, batch = text.split(":")
        size, _, micro = batch.partition("/")
        return cls(architecture, int(d_sae), int(size), int(micro or size))

    def spec(self) -> dict[str, Any]:
        return {
            "dataset": "rows",
            "model": f"m-{self.architecture}-{self.d_sae}-{self.micro_batch_size}",
            self.architecture: {},
            "d_sae": self.d_sae,
            "tokens": STEPS * self.batch_size,
            "batch_size": self.batch_size,
            "micro_batch_size": self.micro_batch_size,
            "log_every_steps": 1,
            "eval_rows": 2048,
        }


@dataclass(frozen=True)
class Measured:
    """One case: bytes and rows a second, as planned and as they were."""

    case: Case
    planned_bytes: int
    peak_bytes: int
    planned_tokens_per_second: float | None
    tokens_per_second: float

    def line(self) -> str:
        case, error = self.case, self.planned_bytes / self.peak_bytes - 1
        predicted = self.planned_tokens_per_second
        ratio = (
            ""
            if predicted is None
            else f"  predicted / real {predicted / self.tokens_per_second:.2f}"
        )
        return (
            f"{case.architecture:11s} d_sae {case.d_sae:7d}  batch {case.batch_size:5d}/"
            f"{case.micro_batch_size:5d}  peak {self.peak_bytes / 2**20:7.0f} MiB  planned "
            f"{self.planned_bytes / 2**20:7.0f} ({error:+.1%})  {self.tokens_per_second:8.0f} "
            f"tokens/s{ratio}"
        )


class Bench:
    """A store with one data set, and jobs run on it one after the other."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.store = ArtifactStore(folder / "store")
        self.store.check()
        self.ledger = Ledger(self.store)
        self.threads = threads
        self.speeds = SpeedBook(self.store)
        datasets = DatasetRegistry(self.store, Roots({}))
        datasets.create("rows")
        self.manifest = write_synthetic(
            datasets.get("rows").folder,
            name="rows",
            d=D_IN,
            n_features=1024,
            active=16,
            rows=ROWS,
            seed=0,
        )
        datasets.commit("rows", self.manifest.to_bytes())

    def plan(self, case: Case) -> Plan:
        asked = TrainSpec.parse(case.spec(), "train")
        layout = layout_of(asked, self.manifest, lambda name, _: self.manifest.source(name))
        data = training_data(layout, self.manifest)
        records = self.speeds.records(KIND, case.architecture)
        machine = Machine(kind=KIND, memory_bytes=limit_bytes(), records=records)
        return plan_training(asked, layout.resolve(asked), data, Fleet(machines=(machine,)))

    def run(self, case: Case, number: int) -> Measured:
        job = f"j-{number}"
        submission = Submission(
            id=job,
            kind="train",
            spec={},
            resolved_spec={"train": case.spec()},
            resource_class="cpu",
            created=time.time(),
        )
        self.ledger.submit(submission)
        order = JobOrder(
            claim=self.ledger.claim(job, "bench", time.time()),
            store=self.store.root,
            roots={},
            parent=os.getpid(),
            stop_grace_s=1.0,
            torch_threads=self.threads,
            log_level="WARNING",
            machine=KIND,
        )
        planned = self.plan(case)
        peak = _peak(command(order))
        speed = _speed(self.store, self.ledger, job)
        return Measured(case, planned.memory_bytes, peak, planned.tokens_per_second, speed)


def _peak(words: list[str]) -> int:
    """Run a process and return the most memory that was resident, in bytes."""
    # With the environment that workers give to job processes: it decides what is kept of memory.
    process, peak = subprocess.Popen(words, env=_environment()), 0
    while process.poll() is None:
        peak = max(peak, _resident(process.pid))
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"the job ended with {process.returncode}: {' '.join(words[-1:])}")
    return peak


def _environment() -> dict[str, str]:
    return DEFAULTS | os.environ  # noqa: TID251 - handed on, not read


def _resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else 0


def _speed(store: ArtifactStore, ledger: Ledger, job: str) -> float:
    """The fastest step before AuxK but the first, which compiles: a handful tell no mean."""
    path = store.path(f"{ledger.attempt_key(job, 1)}/events.jsonl")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    values = [event["data"]["metrics"] for event in events if event["type"] == "metrics"]
    return max(value["tokens_per_second"] for value in values[1:ALIVE_STEPS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="architecture:d_sae:batch[/micro]")
    parser.add_argument("--quick", action="store_true", help="two small cases")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    chosen = options.cases or (QUICK if options.quick else WHOLE).split()
    with tempfile.TemporaryDirectory() as made:
        bench = Bench(Path(made), options.threads)
        measured: list[Measured] = []
        for number, text in enumerate(chosen):
            measured.append(bench.run(Case.parse(text), number))
            print(measured[-1].line(), flush=True)
    told = {
        "machine": f"{processor_name()}, {options.threads} threads",
        "d_in": D_IN,
        "cases": [asdict(each) for each in measured],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
