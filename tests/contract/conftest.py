"""The implementations that a contract is held against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.memory_index import MemoryIndex
from tests.fakes.valkey import Valkey

from saeserve.jobs.ports import JobIndex
from saeserve.jobs.redis_index import RedisIndex

STREAM = 100


@pytest.fixture(scope="session")
def running_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey(running_valkey: Valkey) -> Valkey:
    """A real server without data."""
    running_valkey.flush()
    return running_valkey


@pytest.fixture(params=["memory", "redis", "redis-bytes"])
def index(request: pytest.FixtureRequest) -> Iterator[JobIndex]:
    """A job index that keeps about 100 events a job."""
    if request.param == "memory":
        yield MemoryIndex(stream_length=STREAM)
        return
    server: Valkey = request.getfixturevalue("valkey")
    with server.client(decode=request.param == "redis") as client:
        yield RedisIndex(client, stream_length=STREAM)
