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
from saeserve.client.events import JobEvent
from saeserve.client.values import Job

SIZE = "48m"
STEPS = 3000
ROOM_FOR_WORDS = 32 << 10
"""Bytes in which events, log, error and result fit, and no checkpoint (some 55 kB)."""


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


def filled(folder: Path, leaving: int = 0) -> Path:
    """A file that leaves no room, or this many bytes."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        file.truncate(file.tell() - leaving)
    return path


def page(service: Service) -> str:
    """All its figures."""
    with urlopen(f"http://{service.ready['metrics']}/metrics", timeout=10) as answer:
        return answer.read().decode()


def figure(control: Service, name: str) -> float:
    [line] = [each for each in page(control).splitlines() if each.startswith(f"{name} ")]
    return float(line.split()[1])


def came_back(job: Job) -> str:
    """Why a job that waits in the queue is there again."""
    return job.waiting.returned if job.state == "QUEUED" and job.waiting else ""


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


@pytest.mark.timeout(2700)
def test_a_job_that_finds_the_volume_full_says_so_and_goes_on_once_there_is_room(
    stack: RealStack,
) -> None:
    stack.start_broker()
    stack.planted()
    stack.control()
    worker = stack.worker()
    client = stack.client
    job = client.jobs.submit(spec("long", STEPS)).id
    stack.wait_for_step(job, 50, seconds=900)
    filler = filled(stack.store.root)
    until(lambda: came_back(client.jobs.get(job)) == "DISK_FULL", what="DISK_FULL", seconds=900)
    # The next attempt cannot be claimed either: the job waits in the queue, and keeps its reason.
    until(lambda: "given back: the disk that holds" in worker.text(), what="a refused claim")
    until(lambda: came_back(client.jobs.get(job)) == "DISK_FULL", what="DISK_FULL again")
    assert 'saeserve_attempt_failures_total{code="DISK_FULL"} 1.0' in page(worker)
    kept = stack.checkpoint(job)
    assert kept >= 50
    filler.unlink()
    ended = stack.wait(job, seconds=900)
    assert (ended.state, ended.error, ended.attempt) == ("SUCCEEDED", None, 2)
    seen = [each for each in client.jobs.watch(job) if isinstance(each, JobEvent)]
    begun = [each for each in seen if each.type == "attempt_started"]
    assert [each.data.get("resume_step", 0) for each in begun] == [0, kept]
    assert [each.attempt for each in seen] == sorted(each.attempt for each in seen)
    assert "DISK_FULL" in [each.data.get("reason") for each in seen]
    assert all("Traceback" not in each.text() for each in stack.services)
    undisturbed = stack.wait(client.jobs.submit(spec("again", STEPS)).id, seconds=900)
    assert stack.weights(ended.outputs[0].model) == stack.weights(undisturbed.outputs[0].model)


@pytest.mark.timeout(2700)
def test_a_job_without_further_attempts_fails_by_name_and_keeps_its_checkpoint(
    stack: RealStack,
) -> None:
    stack.start_broker()
    stack.planted()
    stack.control()
    stack.worker()
    job = stack.client.jobs.submit(spec("long", STEPS), max_attempts=1).id
    stack.wait_for_step(job, 50, seconds=900)
    filled(stack.store.root, leaving=ROOM_FOR_WORDS)
    ended = stack.wait(job, seconds=900)
    assert ended.state == "FAILED"
    assert ended.error is not None
    assert ended.error.code == "DISK_FULL"
    assert "is full" in ended.error.message
    assert "free space" in ended.error.remedy
    assert str(stack.folder) not in repr(ended)
    assert stack.checkpoint(job) >= 50
    assert all("Traceback" not in each.text() for each in stack.services)
