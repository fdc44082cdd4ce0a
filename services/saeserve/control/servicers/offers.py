"""saeserve.v1.ServerService."""

from __future__ import annotations

from typing_extensions import override

from saeserve.control.converters.specs import spec_message
from saeserve.control.handlers.offers import ClassOffer, Offers
from saeserve.control.servicers.context import Context
from saeserve.control.servicers.pools import Pools
from saeserve.core.specs.presets import Preset
from saeserve.platform.auth.rules import READ
from saeserve.platform.grpc_server import Service
from saeserve.v1 import server_service_pb2 as pb
from saeserve.v1 import server_service_pb2_grpc as pb_grpc

NAME = "saeserve.v1.ServerService"
RULES = {"ListWorkers": READ, "ListPresets": READ}


class ServerServicer(pb_grpc.ServerServiceServicer):
    """Converts what the handler says."""

    def __init__(self, offers: Offers, pools: Pools) -> None:
        self._offers = offers
        self._pools = pools

    @override
    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: Context
    ) -> pb.ListWorkersResponse:
        """Resource classes and their live workers."""
        found = await self._pools.call(self._offers.workers)
        return pb.ListWorkersResponse(classes=map(_class_message, found))

    @override
    async def ListPresets(
        self, request: pb.ListPresetsRequest, context: Context
    ) -> pb.ListPresetsResponse:
        """Documented training configs."""
        presets = self._offers.presets()
        return pb.ListPresetsResponse(
            presets=[_preset_message(name, preset) for name, preset in presets.items()]
        )


def server_service(servicer: ServerServicer) -> Service:
    """The service, to be added to a server."""
    return Service(
        NAME,
        lambda server: pb_grpc.add_ServerServiceServicer_to_server(servicer, server),
        rules=RULES,
    )


def _class_message(offer: ClassOffer) -> pb.ResourceClass:
    machines = [
        pb.WorkerMachine(kind=machine.kind, memory_bytes=machine.memory_bytes)
        for machine in offer.machines
    ]
    return pb.ResourceClass(name=offer.name, machines=machines, queued=offer.queued)


def _preset_message(name: str, preset: Preset) -> pb.Preset:
    spec = spec_message({"train": preset.fields}).train
    return pb.Preset(name=name, source=preset.source, spec=spec)
