"""What the deployment offers: its workers, and presets of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from saeserve.client.errors import translated
from saeserve.client.wire import plain
from saeserve.v1 import server_service_pb2, server_service_pb2_grpc


@dataclass(frozen=True)
class WorkerMachine:
    """One worker's machine: the GPU as torch names it, or the processor with its threads."""

    kind: str
    memory_bytes: int
    """What one job may have."""


@dataclass(frozen=True)
class ResourceClass:
    """The live workers of a class, and the jobs that are QUEUED for it."""

    name: str
    machines: tuple[WorkerMachine, ...]
    queued: int


@dataclass(frozen=True)
class Preset:
    """A documented training config."""

    name: str
    source: str
    """Where its values come from, and what is different here."""
    spec: Mapping[str, Any]
    """The fields of a train spec that it fills where they are unset."""


class Server:
    """Calls of ServerService."""

    def __init__(self, channel: grpc.Channel, address: str, timeout: float) -> None:
        self._stub = server_service_pb2_grpc.ServerServiceStub(channel)
        self._address = address
        self._timeout = timeout

    def workers(self) -> tuple[ResourceClass, ...]:
        """Resource classes and the workers of each that were heard of within the last seconds.

        >>> [(each.name, len(each.machines)) for each in client.server.workers()]
        [('cpu', 1), ('gpu', 0)]
        """
        request = server_service_pb2.ListWorkersRequest()
        with translated(self._address):
            found = self._stub.ListWorkers(request, timeout=self._timeout).classes
        return tuple(
            ResourceClass(
                each.name,
                tuple(WorkerMachine(one.kind, one.memory_bytes) for one in each.machines),
                each.queued,
            )
            for each in found
        )

    def presets(self) -> tuple[Preset, ...]:
        """Configs that `preset` of a train spec may name.

        >>> [preset.name for preset in client.server.presets()]
        ['openai-topk-2024', ...]
        """
        request = server_service_pb2.ListPresetsRequest()
        with translated(self._address):
            found = self._stub.ListPresets(request, timeout=self._timeout).presets
        return tuple(Preset(each.name, each.source, plain(each.spec)) for each in found)
