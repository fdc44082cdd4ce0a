"""Every kernel compiled before it is measured: steps of all shapes, each in a process of its own.

Triton compiles a kernel at its first use and keeps it on disk. One process would spend minutes on
that; processes next to each other take as long as the slowest step. What fails here fails before
anything is timed, and its text is in the record.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.gpu import correctness, kernels, speed
from bench.gpu.encoding import FORMS, measured
from bench.gpu.lab import Lab, Record, planted_rows

STEPS = 3
Task = Callable[[Lab], object]


def tasks() -> dict[str, Task]:
    """All of them by name, the slowest first."""
    found: dict[str, Task] = {}
    for race in speed.races():
        for contestant in race.contestants:
            # More rows take the same kernels.
            if contestant.deterministic and "wide" not in race.shape:
                name = f"{race.shape} {race.architecture}, {contestant.name}"
                found[name] = lambda lab, r=race, c=contestant: _steps(lab, r, c)
    for name, case in correctness.cases(correctness.SMALL.k).items():
        found[f"small {name}"] = lambda lab, c=case: correctness.first_steps(lab, c)
    for name in kernels.MEASURED:
        found[f"kernels {name}"] = lambda lab, n=name: kernels.measure(lab, {}, n)
    for name, form in FORMS.items():
        found[f"encoding {name}"] = lambda lab, n=name, f=form: measured(lab, lab.shapes[n], f)
    return found


def run(lab: Lab) -> None:
    """All of them, one for each processor at a time, into lab.data["compiling"]."""
    data: Record = {}
    lab.data["compiling"] = data
    names = list(tasks())[: 1 if lab.tiny else None]
    with ThreadPoolExecutor(os.cpu_count()) as processes:
        running = {name: processes.submit(_process, lab, name) for name in names}
        for name, found in running.items():
            lab.attempt(data, name, found.result, -math.inf)


def _process(lab: Lab, name: str) -> Record:
    words = ["--device", str(lab.device), "--task", name, *(["--tiny"] if lab.tiny else [])]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "bench.gpu", *words],
            capture_output=True,
            text=True,
            timeout=max(1.0, lab.left()),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": "out of time"}
    if done.returncode:
        said = done.stderr.strip()
        return {"error": said.rpartition("\n")[2][:800], "traceback": said[-3500:]}
    return {"process_s": round(time.monotonic() - began, 1)}


def _steps(lab: Lab, race: speed.Race, contestant: speed.Contestant) -> None:
    shape = lab.shapes[race.shape]
    x = planted_rows(shape.batch, shape.d, lab.device)
    with speed.settings(contestant):
        step = contestant.start(lab, shape, x)
        for _ in range(STEPS):
            step(x)
    lab.sync()
