"""A deployment keeps its store tidy and private: sweeping, `saeserve gc`, `saeserve jobs rm`."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.fakes.real_stack import RealStack, until

from saeserve.core.durable import held

PATIENCE_S = 300.0
SPEC = {
    "dataset": "planted",
    "model": "sae",
    "topk": {"k": 4},
    "d_sae": 32,
    "tokens": 40 * 64,
    "batch_size": 64,
    "checkpoint_every_steps": 10,
    "eval_rows": 64,
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[RealStack]:
    settings = {"sweep_seconds": "0.3", "sweep_after_seconds": "2"}
    made = RealStack(tmp_path_factory.mktemp("c") / "x", settings)
    made.start_broker()
    made.control()
    yield made
    made.close()


def cli(stack: RealStack, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SAESERVE_CONTROL_ADDRESS": stack.control_address}
    command = [sys.executable, "-m", "saeserve.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(stack: RealStack) -> None:
    places = ["models/m/versions", "requests", "jobs/j-1/attempts/1", "exports/m/1"]
    for place in places:
        folder = stack.store.path(place)
        folder.mkdir(parents=True)
        (folder / ".x.0.tmp").mkdir()
        (folder / ".x.0.tmp" / "part").write_bytes(b"123")
        (folder / ".y.0.tmp").write_bytes(b"123")
    living = stack.store.path("requests/.z.0.tmp")
    living.touch()
    os.utime(living, (0, 0))
    with held(living):
        until(lambda: not list(stack.store.root.rglob(".[xy].0.tmp")), PATIENCE_S, "the sweep")
        assert living.exists()
    until(lambda: not living.exists(), PATIENCE_S, "the sweep")


@pytest.mark.timeout(3 * PATIENCE_S)
def test_a_job_that_has_ended_is_tidied_collected_and_deleted(stack: RealStack) -> None:
    stack.planted()
    stack.worker()
    job = stack.client.jobs.submit({"train": SPEC}).id
    live = cli(stack, "jobs", "rm", job)
    assert live.returncode == 1
    assert "JOB_LIVE" in live.stderr
    assert stack.wait(job, seconds=PATIENCE_S).state == "SUCCEEDED"
    attempt = stack.store.path(stack.ledger.attempt_key(job, 1))
    assert not (attempt / "export").exists()
    until(lambda: os.listdir(attempt / "checkpoints") == ["40"], PATIENCE_S, "the sweep")
    [kept] = json.loads(cli(stack, "gc", "--json").stdout)
    assert kept["path"] == f"jobs/{job}/attempts/1/checkpoints/40"
    assert kept["kept"].startswith("it is kept for 16")
    dry = cli(stack, "gc", "--checkpoint-days", "0")
    assert "1 can go" in dry.stdout
    assert (attempt / "checkpoints" / "40").exists()
    done = cli(stack, "gc", "--checkpoint-days", "0", "--yes")
    assert "1 removed" in done.stdout
    assert not (attempt / "checkpoints" / "40").exists()
    assert cli(stack, "jobs", "rm", job).returncode == 0
    assert not stack.store.exists(f"jobs/{job}")
    assert [each.id for each in stack.client.jobs.list()] == []
    assert stack.client.models.get("sae").job == job
    again = cli(stack, "jobs", "rm", job)
    assert (again.returncode, "JOB_NOT_FOUND" in again.stderr) == (1, True)


def test_what_the_services_wrote_is_their_users_alone(stack: RealStack) -> None:
    """After the test above; the test itself made other folders, by its own umask."""
    top = stack.store.path("models/sae")
    written = [top, *top.rglob("*")]
    assert len(written) > 4
    for path in written:
        assert open_to_others(path) == 0, path


def open_to_others(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode) & 0o077
