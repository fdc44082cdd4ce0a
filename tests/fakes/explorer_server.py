"""The explorer in an event loop of its own, and a deployment with something to see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes.control_server import Control
from tests.fakes.features import BARE
from tests.fakes.small_model import small_model

from saeserve.client import Client
from saeserve.client.values import Job
from saeserve.core.export.format import save_model
from saeserve.core.formats.model import TopKActivation
from saeserve.explorer.server import Running, running
from saeserve.explorer.settings import ExplorerSettings
from saeserve.jobs.payloads import AttemptStarted, MetricsReported
from saeserve.jobs.record import Event, Lease, Output, Result
from saeserve.jobs.states import JobState

TRAIN = {"dataset": "acts", "model": "sae", "topk": {"k": 2}, "d_sae": 8, "tokens": 4096}
EVALUATE = {"dataset": "acts", "model": "sae@1"}
DENSITY = [
    {"log10_lower": -3.0, "log10_upper": -2.0, "latents": 40},
    {"log10_lower": -2.0, "log10_upper": -1.0, "latents": 24},
]
HOSTILE = "<script>alert(1)</script>"


@contextmanager
def explorer(
    control: str,
    inference: str = "127.0.0.1:1",
    **changes: Any,  # noqa: ANN401 - any field
) -> Generator[Running]:
    """The explorer of the services at two addresses, on a free port."""
    known: dict[str, Any] = {
        "control_address": control,
        "inference_address": inference,
        "explorer_address": "127.0.0.1:0",
        "explorer_metrics_address": "127.0.0.1:0",
        **changes,
    }
    settings = ExplorerSettings(**known)
    started: Future[Running] = Future()

    async def serve() -> None:
        try:
            async with running(settings) as parts:
                started.set_result(parts)
                await parts.run_until_stopped()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(lambda: asyncio.run(serve()))
        parts = started.result(60)
        try:
            yield parts
        finally:
            parts.request_stop()
            served.result(60)


def furnish(control: Control, client: Client, folder: Path) -> tuple[Job, Job, Job]:
    """Put a trained and evaluated model into a deployment, and a job that waits."""
    publish(control, folder)
    train = client.jobs.submit({"train": TRAIN}, labels={"note": HOSTILE})
    reports = [MetricsReported(metrics={"fvu": 1 / (1 + n), "l0": 2.0}) for n in range(40)]
    made = Output(model="models/sae/versions/1", metrics={"fvu": 0.025})
    ended(control, train.id, made, AttemptStarted(), *reports)
    evaluate = client.jobs.submit({"evaluate": EVALUATE})
    figures = {"metrics": {"fvu": 0.03, "l0": 2.0}, "density": DENSITY}
    report = {"model": "models/sae/versions/1", "dataset": "acts", **figures}
    ended(control, evaluate.id, Output(evaluation=report), AttemptStarted())
    waits = client.jobs.submit({"train": TRAIN})
    return client.jobs.get(train.id), client.jobs.get(evaluate.id), client.jobs.get(waits.id)


def publish(control: Control, folder: Path) -> None:
    """Put a harvested data set and two models into a deployment."""
    control.ready("acts", d=4, language_model="files:lm")
    save_model(small_model(TopKActivation(k=2), d_in=4, d_sae=64), folder / "model")
    for name in ("sae", BARE):
        control.models.publish(name, "j-made", 0, folder / "model")


def ended(
    control: Control, job: str, made: Output, *payloads: AttemptStarted | MetricsReported
) -> None:
    """What a worker does, without a worker."""
    index = control.index()
    assert index.acquire("cpu", "worker", 30.0) is not None
    claim = control.ledger.claim(job, "worker", time.time())
    assert index.start(Lease(job=job, epoch=claim.epoch, owner="worker"), charged=True)
    for op, payload in enumerate(payloads):
        index.append(job, Event(epoch=1, op=op, time=time.time(), step=op, payload=payload))
    ended = JobState.SUCCEEDED
    control.ledger.finish(Result(job=job, epoch=1, state=ended, outputs=(made,), time=time.time()))
    index.finish(job, 1, ended, (made,), None)
