"""Runs tasks side by side, one thread each: small matrices do not gain from a second one."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from bench.results import Results, Run, RunKey

from saeserve.platform.process import die_with_parent


@dataclass(frozen=True)
class Task:
    """One training run: `work()` returns its figures. Must be picklable."""

    library: str
    name: str
    variant: str
    seed: int
    work: Callable[[], dict[str, float]]

    @property
    def key(self) -> RunKey:
        """Which run this is."""
        return self.library, self.name, self.variant, self.seed


def run_all(tasks: Sequence[Task], processes: int, results: Results, path: Path) -> Results:
    """`results` with the run of every task, in the tasks' order; those that it has are not run.

    Each is printed, and saved to `path`, when it ends.
    """
    began = time.perf_counter()
    found = {run.key: run for run in results.runs}
    context = multiprocessing.get_context("spawn")
    begin = partial(_begin, os.getpid())
    with ProcessPoolExecutor(processes, context, initializer=begin) as pool:
        futures = [pool.submit(_run, task) for task in tasks if task.key not in found]
        for future in as_completed(futures):
            run = future.result()
            found[run.key] = run
            results = replace(results, runs=tuple(found[t.key] for t in tasks if t.key in found))
            results.save(path)
            minutes = (time.perf_counter() - began) / 60
            told = f"[{minutes:5.1f} min, {len(results.runs)}/{len(tasks)}] {_told(run)}"
            print(told, flush=True)
    return results


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


def _begin(parent: int) -> None:
    """A process that takes tasks: it has one thread, and no task outlives the benchmark."""
    die_with_parent(parent)
    one_thread()


def one_thread() -> None:
    """Small matrices do not gain from a second thread, and lose to other processes."""
    torch.set_num_threads(1)
