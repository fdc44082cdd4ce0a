"""Broker, control, inference and worker as `saeserve up` runs them, with their default settings and
a store of their own that links the data set."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from saeserve.cli.stack import BROKER, SERVICES, Stack, child_environment
from saeserve.client import Client


@contextmanager
def running(folder: Path, dataset: Path) -> Generator[tuple[Client, Mapping[str, int]]]:
    """A client of all of them, and their process ids by name, until the block is left."""
    store = folder / "store"
    _link(dataset, store / "datasets" / dataset.name)
    control, inference = _free_address(), _free_address()
    environment = child_environment(
        {
            "SAESERVE_STORE": str(store),
            "SAESERVE_RUN": str(folder / "run"),
            "SAESERVE_CONTROL_ADDRESS": control,
            "SAESERVE_INFERENCE_ADDRESS": inference,
            "SAESERVE_CONTROL_METRICS_ADDRESS": "127.0.0.1:0",
            "SAESERVE_INFERENCE_METRICS_ADDRESS": "127.0.0.1:0",
            "SAESERVE_WORKER_METRICS_ADDRESS": "127.0.0.1:0",
            "SAESERVE_REDIS_URL": "",
        }
    )
    stack = Stack((BROKER, *SERVICES), folder / "logs", environment, _say)
    stack.start()
    try:
        with closing(Client(control, inference)) as client:
            yield client, stack.pids()
    finally:
        stack.stop()


def _link(dataset: Path, target: Path) -> None:
    """The data set's files under another store, linked where the file system can."""
    target.parent.mkdir(parents=True)
    try:
        shutil.copytree(dataset, target, copy_function=os.link)
    except OSError:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(dataset, target)


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _say(name: str, facts: str) -> None:
    print(f"  {name}: {facts}", flush=True)
