"""The SDK's job calls against a real control service: job files, time-outs, restarts."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.fakes.control_server import Control, run_to_the_end
from tests.fakes.transferring import client_of

from saeserve.client import Client
from saeserve.client.errors import DeadlineError, OverloadedError, UnavailableError
from saeserve.client.events import JobEvent
from saeserve.client.job_wait import Waiter
from saeserve.client.values import Job

YAML = "train: {dataset: acts, model: sae, d_sae: 8, tokens: 4096, topk: {k: 2}}\n"


@pytest.fixture
def client(control: Control) -> Generator[Client]:
    control.ready()
    with client_of(control) as made:
        yield made


def test_a_job_file_is_submitted_and_planned(client: Client, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(YAML)
    job = client.jobs.submit(str(tmp_path / "job.yaml"))
    planned, _ = client.jobs.plan(tmp_path / "job.yaml")
    recorded = client.jobs.get(job.id).resolved_spec
    assert recorded["train"]["topk"] == planned.resolved_spec["train"]["topk"]
    assert planned.resolved_spec["train"]["dataset"] == "acts"


@pytest.mark.parametrize("timeout", [0.0, 0.3])
def test_waiting_ends_at_its_timeout_and_the_job_goes_on(
    control: Control, client: Client, timeout: float
) -> None:
    job = control.submit().job.id
    with pytest.raises(DeadlineError, match=f"{job} is still QUEUED") as caught:
        client.jobs.wait(job, timeout=timeout)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert client.jobs.get(job).state == "QUEUED"
    with pytest.raises(DeadlineError):
        list(client.jobs.watch(job, timeout=timeout))


def test_what_has_ended_is_given_at_once(control: Control, client: Client) -> None:
    job = control.submit().job.id
    run_to_the_end(control, job)
    assert client.jobs.wait(job, timeout=0.0).state == "SUCCEEDED"
    seen = list(client.jobs.watch(job, timeout=240))
    assert isinstance(seen[-1], Job)
    assert any(isinstance(each, JobEvent) for each in seen)


def test_waiting_outlives_a_server_that_is_away_for_a_moment(
    control: Control, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saeserve.client.retries.FIRST_WAIT_S", 0.01)
    job = control.submit().job.id
    run_to_the_end(control, job)
    errors = [UnavailableError("gone"), OverloadedError("full", retry_after_s=0.02)]

    def get(name: str, _seconds: float) -> Job:
        if errors:
            raise errors.pop()
        return client.jobs.get(name)

    assert Waiter(get, 10).wait(job, 0.01, 30).done


def test_waiting_ends_when_the_server_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saeserve.client.retries.FIRST_WAIT_S", 0.01)
    begun = time.monotonic()
    with Client("127.0.0.1:1", timeout=5) as nobody, pytest.raises(UnavailableError):
        nobody.jobs.wait("j-00000000000000000001")
    assert time.monotonic() - begun < 60
