"""Servers behind one name take turns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import pytest

from saeserve.client import channel
from saeserve.client.access import Access


class Numbered(grpc.GenericRpcHandler):
    """Answers every call with the number of its server."""

    def __init__(self, number: int) -> None:
        self.number = number

    def service(self, handler_call_details: Any) -> Any:  # noqa: ANN401 - the stubs lack its type
        return cast(Any, grpc).unary_unary_rpc_method_handler(self.answer)

    def answer(self, *_: object) -> bytes:
        return b"%d" % self.number


def test_all_addresses_of_a_name_are_called() -> None:
    servers = [grpc.server(ThreadPoolExecutor(1)) for _ in range(3)]
    ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
    for number, server in enumerate(servers):
        server.add_generic_rpc_handlers((Numbered(number),))
        server.start()
    try:
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        with channel.open_silently(target, Access()) as opened:
            call = cast(Any, opened).unary_unary("/any/Method")
            # The first calls go to whichever server was reached first.
            answers = {call(b"", timeout=20, wait_for_ready=True) for _ in range(200)}
        assert answers == {b"0", b"1", b"2"}
    finally:
        for server in servers:
            server.stop(None)


@pytest.mark.parametrize("address", ["unix:/nowhere/socket", "127.0.0.1:1", "dns:///127.0.0.1:1"])
def test_one_address_is_one_server(address: str) -> None:
    with channel.open_silently(address, Access()) as opened:
        call = cast(Any, opened).unary_unary("/any/Method")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=20)
        assert cast(grpc.Call, caught.value).code() is grpc.StatusCode.UNAVAILABLE
