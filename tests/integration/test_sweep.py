"""A sweep on the real stack: killed half-way, one member diverges, the others lose no bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.fakes.real_stack import RealStack

from saeserve.cli.stack import child_environment
from saeserve.client.events import JobEvent

STEPS, BATCH, EVERY = 200, 64, 25
PATIENCE_S = 240.0
DIVERGES = 1e30
LRS = (1e-3, DIVERGES, 3e-3)


def train_spec(model: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "dataset": "planted",
        "model": model,
        "topk": {"k": 4},
        "d_sae": 256,
        "tokens": STEPS * BATCH,
        "batch_size": BATCH,
        "checkpoint_every_steps": EVERY,
        "log_every_steps": 20,
        "eval_rows": 256,
    }
    return {"train": fields | changes}


@pytest.fixture(scope="module")
def base(make_stack: Callable[[], RealStack]) -> RealStack:
    made = make_stack()
    made.start_broker()
    made.planted()
    made.control()
    return made


@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_sweep_that_is_killed_half_way_ends_as_if_undisturbed(base: RealStack) -> None:
    worker = base.worker()
    job = base.client.jobs.submit(train_spec("lost", sweep={"lr": list(LRS)})).id
    base.wait_for_step(job, 2 * EVERY, PATIENCE_S)
    (process,) = worker.job_processes
    os.kill(process, signal.SIGKILL)
    worker.kill()
    worker = base.worker()
    ended = base.wait(job, seconds=PATIENCE_S)
    assert (ended.state, ended.attempt, ended.error) == ("SUCCEEDED", 2, None)
    assert [output.model for output in ended.outputs] == [
        "models/lost-lr0.001/versions/1",
        "models/lost-lr0.003/versions/1",
    ]
    assert list(ended.member_errors) == ["lost-lr1e30"]
    error = ended.member_errors["lost-lr1e30"]
    assert (error.code, error.step, error.retryable) == ("DIVERGED_NAN", 20, False)
    calm = base.client.jobs.submit(train_spec("calm", sweep={"lr": [1e-3, 3e-3]})).id
    undisturbed = base.wait(calm, seconds=PATIENCE_S)
    for one, other in zip(ended.outputs, undisturbed.outputs, strict=True):
        assert base.weights(one.model) == base.weights(other.model)
    events = [e for e in base.client.jobs.watch(job) if isinstance(e, JobEvent)]
    told = {e.member for e in events if e.type == "metrics_reported"}
    assert told == {"lost-lr0.001", "lost-lr0.003"}
    [diverged] = [e for e in events if e.data.get("code") == "MEMBER_DIVERGED"]
    assert (diverged.member, diverged.attempt) == ("lost-lr1e30", 1)
    assert worker.stop() == 0


@pytest.mark.timeout(2 * PATIENCE_S)
def test_the_command_line_plans_submits_watches_and_shows_a_sweep(base: RealStack) -> None:
    worker = base.worker()
    environment = child_environment(
        {"SAESERVE_CONTROL_ADDRESS": base.control_address, "COLUMNS": "200"}
    )

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "saeserve.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    file = base.folder / "job.json"
    file.write_text(json.dumps(train_spec("cli", topk={}, tokens=40 * BATCH)))
    axes = ("--sweep", "k=2,4", "--sweep", "lr=1e-3,3e-3")
    names = [f"cli-k{k}-lr{lr}" for k in (2, 4) for lr in ("0.001", "0.003")]
    grid = {"k": [2, 4], "lr": [1e-3, 3e-3]}
    planned = run("plan", str(file), "--set", f"sweep={json.dumps(grid)}", "--json")
    assert json.loads(planned)["plan"]["models"] == names
    shown = run("submit", "train", "-f", str(file), *axes, "--watch")
    for name in names:
        assert f"models/{name}/versions/1" in shown
    [job] = [j for j in base.client.jobs.list() if len(j.outputs) == 4]
    assert {name for name in job.progress.members} <= set(names)
    assert all(output.metrics["fvu"] < 1 for output in job.outputs)
    assert worker.stop() == 0
