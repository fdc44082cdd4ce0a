"""saeserve.v1.ModelService."""

from __future__ import annotations

import asyncio

from typing_extensions import override

from saeserve.control.converters.models import model_message
from saeserve.control.converters.tokens import page_after, page_size, page_token
from saeserve.control.handlers.models import ModelHandlers
from saeserve.control.servicers.context import Context
from saeserve.control.servicers.pools import Pools
from saeserve.platform.auth.caller import current_caller
from saeserve.platform.auth.rules import CHANGE, READ
from saeserve.platform.grpc_server import Service
from saeserve.platform.pages import fitting
from saeserve.v1 import model_service_pb2 as pb
from saeserve.v1 import model_service_pb2_grpc as pb_grpc

NAME = "saeserve.v1.ModelService"
RULES = {
    "GetModel": READ,
    "ListModels": READ,
    "DeleteModel": CHANGE,
    "SetAlias": CHANGE,
    "DeleteAlias": CHANGE,
}


class ModelServicer(pb_grpc.ModelServiceServicer):
    """Converts, calls a handler in a thread, converts back."""

    def __init__(self, handlers: ModelHandlers, pools: Pools) -> None:
        self._handlers = handlers
        self._pools = pools

    @override
    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """The version that a reference means."""
        found = await asyncio.to_thread(self._handlers.get, request.model)
        return pb.GetModelResponse(model=model_message(found))

    @override
    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """Versions by name, newest first."""
        scope = f"models:{request.name}"
        size, after = page_size(request.page_size), page_after(request.page_token, scope)
        found, last = await asyncio.to_thread(self._handlers.page, request.name, size, after)
        models = fitting(model_message(each) for each in found)
        if len(models) < len(found):
            last = f"{models[-1].name}@{models[-1].version}"
        return pb.ListModelsResponse(models=models, next_page_token=page_token(scope, last))

    @override
    async def DeleteModel(
        self, request: pb.DeleteModelRequest, context: Context
    ) -> pb.DeleteModelResponse:
        """Delete one version."""
        delete, caller = self._handlers.delete, current_caller()
        await self._pools.call(delete, request.model, caller, force=request.force)
        return pb.DeleteModelResponse()

    @override
    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Point an alias at a version."""
        set_alias, caller = self._handlers.set_alias, current_caller()
        found = await asyncio.to_thread(
            set_alias, request.name, request.alias, request.version, caller
        )
        return pb.SetAliasResponse(model=model_message(found))

    @override
    async def DeleteAlias(
        self, request: pb.DeleteAliasRequest, context: Context
    ) -> pb.DeleteAliasResponse:
        """Remove an alias."""
        delete_alias, caller = self._handlers.delete_alias, current_caller()
        await asyncio.to_thread(delete_alias, request.name, request.alias, caller)
        return pb.DeleteAliasResponse()


def model_service(servicer: ModelServicer) -> Service:
    """The service, to be added to a server."""
    return Service(
        NAME,
        lambda server: pb_grpc.add_ModelServiceServicer_to_server(servicer, server),
        rules=RULES,
    )
