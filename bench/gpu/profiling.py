"""Where our steps' time goes: what the host needs to start one, and each kernel's share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from bench.gpu import speed
from bench.gpu.lab import Lab, Record, batches, planted_rows
from torch.profiler import ProfilerActivity, profile

QUEUED = 10
"""Steps whose start is timed, and those that are profiled."""
MOST = 40
"""Kernels of a record: those that take longest."""


def run(lab: Lab) -> None:
    """Our step of each race, into lab.data["profiling"]."""
    data: Record = {}
    lab.data["profiling"] = data
    for race in speed.races():
        name = f"{race.shape} {race.architecture}"
        lab.attempt(data, name, lambda r=race: _profiled(lab, r), 5.0)
        lab.free()


def _profiled(lab: Lab, race: speed.Race) -> Record:
    shape, ours = lab.shapes[race.shape], race.contestants[0]
    x = planted_rows(2 * shape.batch, shape.d, lab.device)
    rows = batches(x, shape.batch)
    with speed.settings(ours):
        step = ours.start(lab, shape, x)
        _take(step, rows, 1 if lab.tiny else 6)
        lab.sync()
        began = time.perf_counter()
        _take(step, rows, QUEUED)
        host = time.perf_counter() - began
        lab.sync()
        whole = time.perf_counter() - began
        kernels = _kernels(lab, lambda: _take(step, rows, QUEUED))
    return {"host_ms": 1e3 * host / QUEUED, "ms": 1e3 * whole / QUEUED, **kernels}


def _take(step: speed.Step, rows: list[torch.Tensor], steps: int) -> None:
    for number in range(steps):
        step(rows[number % len(rows)])


def _kernels(lab: Lab, what: Callable[[], None]) -> Record:
    """Milliseconds a step that the device is busy, launches, and the kernels' own times."""
    if not lab.cuda:
        return {}
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        what()
        lab.sync()
    times, counts = Counter[str](), Counter[str]()
    events: list[Any] = list(cast(Any, found).events())
    for event in events:
        if str(event.device_type).endswith("CUDA"):
            times[event.name] += event.device_time / QUEUED
            counts[event.name] += 1
    return {
        "busy_ms": sum(times.values()) / 1e3,
        "launches": counts.total() / QUEUED,
        "kernels_us": {name[:100]: round(us, 1) for name, us in times.most_common(MOST)},
    }
