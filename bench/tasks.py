"""Runs tasks side by side, one thread each: small matrices do not gain from a second one."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch
from bench.results import Run


@dataclass(frozen=True)
class Task:
    """One training run: `work()` returns its figures. Must be picklable."""

    library: str
    name: str
    variant: str
    seed: int
    work: Callable[[], dict[str, float]]


def run_all(tasks: Sequence[Task], processes: int) -> tuple[Run, ...]:
    """All runs in the order of their tasks; each is told when it ends."""
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_one_thread) as pool:
        futures = {pool.submit(_run, task): index for index, task in enumerate(tasks)}
        found: dict[int, Run] = {}
        for future in as_completed(futures):
            found[futures[future]] = run = future.result()
            minutes = (time.perf_counter() - began) / 60
            print(f"[{minutes:5.1f} min, {len(found)}/{len(tasks)}] {_told(run)}", flush=True)
    return tuple(found[index] for index in range(len(tasks)))


def _run(task: Task) -> Run:
    began = time.perf_counter()
    figures = task.work()
    seconds = time.perf_counter() - began
    return Run(task.library, task.name, task.variant, task.seed, figures, seconds)


def _told(run: Run) -> str:
    shown = ("f1", "mcc", "explained_variance", "fvu", "l0")
    figures = ", ".join(f"{name} {run.figures[name]:.3f}" for name in shown if name in run.figures)
    title = " ".join(filter(None, (run.library, run.name, run.variant)))
    return f"{title}, seed {run.seed}: {figures} ({run.seconds:.0f} s)"


def _one_thread() -> None:
    torch.set_num_threads(1)
