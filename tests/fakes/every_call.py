"""Every method of every service of the API, found by its descriptors, and how to call it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import saeserve.v1


@dataclass(frozen=True)
class Method:
    """A method; `name` as in JobService/GetJob."""

    name: str
    request: type[Message]
    response: type[Message]
    streams_in: bool
    streams_out: bool

    @property
    def path(self) -> str:
        return f"/saeserve.v1.{self.name}"

    @property
    def service(self) -> str:
        return self.name.partition("/")[0]

    def call(self, channel: grpc.Channel, token: str = "", *requests: Message) -> list[Any]:
        """The answers to `requests`, or to an empty one; `token` is sent unless it is empty."""
        kind = f"{'stream' if self.streams_in else 'unary'}_"
        kind += "stream" if self.streams_out else "unary"
        make = getattr(channel, kind)(
            self.path,
            request_serializer=self.request.SerializeToString,
            response_deserializer=cast(Any, self.response).FromString,
        )
        sent: Sequence[Message] = requests or [self.request()]
        metadata = [("authorization", f"Bearer {token}")] if token else []
        answer = make(iter(sent) if self.streams_in else sent[0], metadata=metadata, timeout=30)
        return list(answer) if self.streams_out else [answer]


def every_method() -> list[Method]:
    """Of all services of saeserve.v1."""
    return [method for module in _modules() for method in _methods(module)]


def _modules() -> Iterator[Any]:
    for found in pkgutil.iter_modules(saeserve.v1.__path__):
        if found.name.endswith("_pb2"):
            yield importlib.import_module(f"saeserve.v1.{found.name}")


def _methods(module: Any) -> Iterator[Method]:  # noqa: ANN401 - a generated module
    for service in module.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            yield Method(
                name=f"{service.name}/{method.name}",
                request=message_factory.GetMessageClass(method.input_type),
                response=message_factory.GetMessageClass(method.output_type),
                streams_in=method.client_streaming,
                streams_out=method.server_streaming,
            )


def outcome(method: Method, channel: grpc.Channel, token: str = "", *requests: Message) -> str:
    """ "OK", or the code and the reason of the refusal."""
    try:
        method.call(channel, token, *requests)
    except grpc.RpcError as error:
        call = cast("grpc.Call", error)
        status = cast(Any, rpc_status).from_call(call)
        info = error_details_pb2.ErrorInfo()
        if status is not None and status.details:
            assert status.details[0].Unpack(info)
            assert info.metadata["remedy"], call.details()
        return f"{call.code().name} {info.reason}"
    return "OK"
