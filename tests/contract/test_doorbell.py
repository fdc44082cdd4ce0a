"""Doorbells over Celery on a real Valkey: hints that may be lost, never in the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import redis
from celery import Celery
from celery.worker import WorkController
from tests.fakes.valkey import Valkey

from saeserve.jobs.doorbell import (
    RING,
    WORKER_OPTIONS,
    CeleryDoorbell,
    broker_url,
    celery_app,
    queue_name,
)
from saeserve.jobs.ports import IndexUnavailable


@pytest.fixture
def client(valkey: Valkey) -> Iterator[redis.Redis]:
    with valkey.client() as connected:
        yield connected


@pytest.fixture
def app(valkey: Valkey) -> Iterator[Celery]:
    made = celery_app(valkey.url)
    yield made
    made.close()


@pytest.fixture
def doorbell(app: Celery, client: redis.Redis) -> CeleryDoorbell:
    return CeleryDoorbell(app, client)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("unix:///run/valkey.sock", "redis+socket:///run/valkey.sock"),
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("rediss://u:p@host/1", "rediss://u:p@host/1"),
    ],
)
def test_broker_urls(given: str, wanted: str) -> None:
    assert broker_url(given) == wanted


def test_rings_wait_in_the_queue_of_their_class(doorbell: CeleryDoorbell) -> None:
    assert doorbell.waiting("cpu") == 0
    doorbell.ring("cpu")
    doorbell.ring("cpu")
    doorbell.ring("gpu")
    assert (doorbell.waiting("cpu"), doorbell.waiting("gpu")) == (2, 1)


def test_a_ring_is_json_and_names_the_class(doorbell: CeleryDoorbell, client: redis.Redis) -> None:
    doorbell.ring("cpu")
    message = json.loads(cast("str", client.rpop(queue_name("cpu"))))
    assert message["headers"]["task"] == RING
    assert message["headers"]["argsrepr"] == "('cpu',)"
    assert message["content-type"] == "application/json"


def test_rings_go_on_after_the_data_was_lost(doorbell: CeleryDoorbell, valkey: Valkey) -> None:
    doorbell.ring("cpu")
    valkey.flush()
    doorbell.ring("cpu")
    assert doorbell.waiting("cpu") == 1


def test_without_broker_the_caller_hears_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = Valkey(tmp_path_factory.mktemp("nowhere"))
    app = celery_app(nowhere.url)
    with nowhere.client() as client:
        doorbell = CeleryDoorbell(app, client)
        with pytest.raises(IndexUnavailable, match="broker is out of reach"):
            doorbell.ring("cpu")
        with pytest.raises(IndexUnavailable, match="broker is out of reach"):
            doorbell.waiting("cpu")
    app.close()


def test_a_busy_worker_holds_no_ring(
    app: Celery, doorbell: CeleryDoorbell, client: redis.Redis
) -> None:
    taken, go_on = threading.Semaphore(0), threading.Semaphore(0)
    heard: list[str] = []

    def answer(resource_class: str) -> None:
        heard.append(resource_class)
        taken.release()
        assert go_on.acquire(timeout=60)

    app.set_default()
    app.task(name=RING, shared=False)(answer)
    worker = cast("Any", WorkController)(app=app, queues=[queue_name("cpu")], **WORKER_OPTIONS)
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        doorbell.ring("cpu")
        assert taken.acquire(timeout=60)
        doorbell.ring("cpu")
        # Acknowledged early, the first one is gone; the second waits for a worker that is free.
        _until(lambda: not client.exists("unacked"))
        assert doorbell.waiting("cpu") == 1
        go_on.release()
        assert taken.acquire(timeout=60)
        assert doorbell.waiting("cpu") == 0
        assert heard == ["cpu", "cpu"]
    finally:
        go_on.release(2)
        worker.stop()
        thread.join(timeout=60)
    assert not thread.is_alive()


def _until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)
