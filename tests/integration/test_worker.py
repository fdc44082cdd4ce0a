"""Jobs through the real stack: Valkey, control and a Celery worker as processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from tests.fakes.real_stack import RealStack, until

from saeserve.client.events import JobEvent
from saeserve.client.values import Job
from saeserve.core.export.format import load_model
from saeserve.jobs.states import JobState


def train_spec(model: str, **fields: object) -> dict[str, Any]:
    spec: dict[str, object] = {
        "dataset": "planted",
        "model": model,
        "topk": {"k": 4},
        "d_sae": 64,
        "tokens": 100 * 256,
        "batch_size": 256,
        "checkpoint_every_steps": 50,
        "log_every_steps": 10,
        "eval_rows": 512,
        **fields,
    }
    return {"train": spec}


@pytest.fixture(scope="module", autouse=True)
def data(stack: RealStack) -> None:
    stack.planted()


@pytest.fixture(scope="module")
def trained(stack: RealStack) -> Job:
    return stack.wait(stack.client.jobs.submit(train_spec("first")).id)


def test_a_train_job_publishes_a_model(stack: RealStack, trained: Job) -> None:
    assert (trained.state, trained.error, trained.attempt) == ("SUCCEEDED", None, 1)
    output = trained.outputs[0]
    assert output.model == "models/first/versions/1"
    assert {"fvu", "l0", "dead_fraction", "train_tokens_per_second"} <= set(output.metrics)
    assert all(math.isfinite(value) for value in output.metrics.values())
    model = load_model(stack.models.resolve(output.model).folder)
    assert (model.config.d_in, model.config.d_sae) == (32, 64)


def test_its_events_are_watched_in_order(stack: RealStack, trained: Job) -> None:
    updates = list(stack.client.jobs.watch(trained.id))
    events = [update for update in updates if isinstance(update, JobEvent)]
    states = [event.data["state"] for event in events if event.type == "state_changed"]
    assert [state.rpartition("_")[2] for state in states][-2:] == ["RUNNING", "SUCCEEDED"]
    steps = [event.step for event in events if event.type == "metrics_reported"]
    assert steps == list(range(10, 101, 10))
    assert [event.step for event in events if event.type == "checkpoint_committed"] == [50, 100]


def test_the_same_spec_gives_the_same_bits(stack: RealStack, trained: Job) -> None:
    again = stack.wait(stack.client.jobs.submit(train_spec("second")).id)
    assert again.state == "SUCCEEDED"
    first, second = trained.outputs[0].model, again.outputs[0].model
    assert stack.weights(first) == stack.weights(second)


def test_a_running_job_is_cancelled(stack: RealStack) -> None:
    job = stack.client.jobs.submit(train_spec("never", tokens=10**8))
    stack.wait_for_step(job.id, 50)
    stack.client.jobs.cancel(job.id)
    ended = stack.wait(job.id)
    assert (ended.state, ended.outputs) == ("CANCELLED", ())
    result = stack.ledger.result(job.id)
    assert result is not None
    assert result.state is JobState.CANCELLED
    assert stack.models.keys("never") == []
    until(lambda: not stack.services[1].job_processes, what="the end of the job process")


def test_a_poison_job_fails_clearly_and_the_worker_lives_on(
    stack: RealStack, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    np.save(tmp_path / "good.npy", rows)
    rows[417, 3] = np.nan
    np.save(tmp_path / "bad.npy", rows)
    client = stack.client
    for name in ("bad", "good"):
        client.datasets.upload(name, tmp_path / f"{name}.npy")
    jobs = [client.jobs.submit({"ingest": {"dataset": name}}) for name in ("bad", "good")]
    bad, good = (stack.wait(job.id) for job in jobs)
    assert bad.state == "FAILED"
    assert bad.error is not None
    assert (bad.error.code, bad.attempt) == ("BAD_DATA", 1)
    assert "bad.npy, row 417" in bad.error.message
    assert client.datasets.get("bad").state == "FAILED"
    assert (good.state, client.datasets.get("good").rows) == ("SUCCEEDED", 600)


def test_a_model_is_evaluated_once_its_training_is_done(stack: RealStack) -> None:
    train = stack.client.jobs.submit(train_spec("third"))
    spec = {"evaluate": {"model": "third", "dataset": "planted", "max_rows": 256}}
    evaluate = stack.wait(stack.client.jobs.submit(spec, waits_for=[train.id]).id)
    assert evaluate.state == "SUCCEEDED"
    report = evaluate.outputs[0].evaluation
    assert report is not None
    assert report["metrics"]["fvu"] == evaluate.outputs[0].metrics["fvu"]
    found = {result.name: result for result in evaluate.outputs[0].results}["fvu"]
    assert (found.definition, found.n, found.counted) == ("fvu/1", 256, "rows")
    assert found.value == pytest.approx(report["metrics"]["fvu"])
    assert report["density"]


def test_the_worker_tells_prometheus(stack: RealStack, trained: Job) -> None:
    address = stack.services[1].ready["metrics"]
    with urlopen(f"http://{address}/metrics") as answer:
        text = answer.read().decode()
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['saeserve_attempts_total{outcome="succeeded"}']) >= 1
    assert float(figures["saeserve_train_tokens_total"]) > 0
    # What is of one training ends with it.
    assert not [name for name in figures if name.startswith("saeserve_train_loss{")]


def test_a_failure_shows_no_folder_of_the_machine(stack: RealStack) -> None:
    stack.planted("vanishing")
    shard = next((stack.datasets.get("vanishing").folder / "shards").glob("0*"))
    shard.unlink()
    job = stack.client.jobs.submit(train_spec("unmade", dataset="vanishing")).id
    ended = stack.wait(job)
    assert ended.error is not None
    told = f"{ended.error.message} {ended.error.cause} {ended.error.remedy}"
    assert shard.name in told
    assert str(stack.folder) not in told
