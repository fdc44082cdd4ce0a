"""The store's volume is full or read-only for a while: a real file system of its own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from tests.fakes.real_stack import RealStack, Service, until

from saeserve.client.errors import UnavailableError

SIZE = "48m"


def mounted(*words: str) -> bool:
    """Whether `mount` did what it was asked; only root may."""
    done = subprocess.run(["mount", *words], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def stack(make_stack: Callable[[], RealStack]) -> Iterator[RealStack]:
    """A stack whose store is a small volume of its own."""
    made = make_stack()
    volume = str(made.store.root)
    if not mounted("-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", volume):
        pytest.skip("file systems can only be mounted by root")
    try:
        yield made
    finally:
        made.close()
        subprocess.run(["umount", "--lazy", volume], check=True)


def spec(model: str, steps: int) -> dict[str, Any]:
    fields = {"dataset": "planted", "model": model, "topk": {"k": 4}, "d_sae": 64}
    pace = {"tokens": steps * 64, "batch_size": 64, "checkpoint_every_steps": 50, "eval_rows": 256}
    return {"train": {**fields, **pace}}


def filled(folder: Path) -> Path:
    """A file that leaves no room."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    return path


def figure(control: Service, name: str) -> float:
    with urlopen(f"http://{control.ready['metrics']}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    [line] = [each for each in text.splitlines() if each.startswith(f"{name} ")]
    return float(line.split()[1])


def refused(call: Callable[[], object], why: str) -> None:
    with pytest.raises(UnavailableError, match=why):
        call()


@pytest.mark.timeout(900)
def test_a_volume_that_is_read_only_for_a_while_is_named_and_loses_nothing(
    stack: RealStack,
) -> None:
    stack.start_broker()
    stack.planted()
    control, jobs = stack.control(), stack.client.jobs
    queued = jobs.submit(spec("queued", 60)).id
    volume = str(stack.store.root)
    until(lambda: mounted("-o", "remount,ro", volume))
    refused(lambda: jobs.submit(spec("new", 20)), "read-only")
    refused(lambda: jobs.cancel(queued), "read-only")
    assert jobs.get(queued).state == "QUEUED"
    until(lambda: figure(control, "saeserve_store_up") == 0, what="a figure to wake somebody")
    # A service that is started now says so in one line, and does not begin.
    with pytest.raises(AssertionError, match=r"cannot be written: Read-only file system"):
        stack.worker()
    assert mounted("-o", "remount,rw", volume)
    until(lambda: figure(control, "saeserve_store_up") == 1, what="the figure to rise again")
    assert jobs.submit(spec("new", 20)).state == "QUEUED"
    assert jobs.get(queued).state == "QUEUED"
    assert "Traceback" not in stack.logs()


@pytest.mark.timeout(900)
def test_a_volume_that_is_full_for_a_while_is_named_and_loses_nothing(stack: RealStack) -> None:
    stack.start_broker()
    stack.planted()
    control, client = stack.control(), stack.client
    queued = client.jobs.submit(spec("queued", 60)).id
    filler = filled(stack.store.root)
    refused(lambda: client.jobs.submit(spec("new", 20)), "is full")
    assert client.jobs.get(queued).state == "QUEUED"
    until(lambda: figure(control, "saeserve_store_free_bytes") == 0, what="a figure of the disk")
    filler.unlink()
    assert client.jobs.submit(spec("new", 20)).state == "QUEUED"
    assert client.jobs.get(queued).state == "QUEUED"
    assert "Traceback" not in stack.logs()
