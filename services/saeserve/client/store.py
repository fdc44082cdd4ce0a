"""The store half of the SDK: what is needed no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from saeserve.client.errors import translated
from saeserve.client.retries import Limit
from saeserve.v1 import store_service_pb2, store_service_pb2_grpc


@dataclass(frozen=True)
class Leftover:
    """A file or folder of the store that can go, or will."""

    path: str
    bytes: int
    why: str
    """Said in words, e.g. a temporary that was being written."""
    kept: str
    """Why it stays for now; empty when it can go."""
    removed: bool
    error: str
    """Why it could not be removed."""


class Store:
    """Calls of StoreService."""

    def __init__(self, channel: grpc.Channel, address: str) -> None:
        self._stub = store_service_pb2_grpc.StoreServiceStub(channel)
        self._address = address

    def collect_garbage(
        self,
        *,
        execute: bool = False,
        checkpoint_seconds: float | None = None,
        timeout: float | None = None,
    ) -> Iterator[Leftover]:
        """List what the store needs no more; with `execute`, remove what can go.

        `checkpoint_seconds`: how long jobs that have ended keep their last checkpoint, in place of
        the server's setting. To look through a large store takes minutes; DeadlineError is raised
        after `timeout` seconds.

        >>> sum(each.bytes for each in client.store.collect_garbage() if not each.kept)
        """
        limit = Limit(timeout)
        request = store_service_pb2.CollectGarbageRequest(
            execute=execute, checkpoint_seconds=checkpoint_seconds
        )
        with translated(self._address):
            for found in self._stub.CollectGarbage(request, timeout=limit.stream()):
                yield Leftover(
                    found.path, found.bytes, found.why, found.kept, found.removed, found.error
                )
