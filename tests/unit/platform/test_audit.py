"""The audit log: a line for every change, on the day's file, and what becomes of old ones."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from tests.fakes.access import Tokens
from tests.fakes.certificates import Authority
from tests.fakes.echo_service import ECHO, NAME

from saeserve.client.access import PLAIN, Access
from saeserve.client.channel import open_channel
from saeserve.errors import Unavailable
from saeserve.platform.audit_log import AuditLog
from saeserve.platform.auth.rules import CHANGE, READ, Scope
from saeserve.platform.auth.token_store import TokenStore
from saeserve.platform.auth.verifier import TokenVerifier
from saeserve.platform.grpc_server import GrpcServer, Service
from saeserve.platform.metrics import Metrics
from saeserve.platform.protection import Protection, server_tls
from saeserve.platform.store import ArtifactStore

RULES = dict.fromkeys(("UnaryUnary", "StreamUnary", "StreamStream"), CHANGE) | {"UnaryStream": READ}
SERVICE = Service(NAME, ECHO.add, rules=RULES)
DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 27, 23, 59, 59, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


def lines(store: ArtifactStore) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for name in store.names("audit")
        for line in store.path(f"audit/{name}").read_text().splitlines()
    ]


def test_a_file_for_each_day_and_old_ones_go(tmp_path: Path) -> None:
    store, clock = ArtifactStore(tmp_path), Clock()
    audit = AuditLog(store, 2, clock)
    for _ in range(4):
        audit.write({"method": "a"})
        audit.write({"method": "b"})
        clock.now += DAY
    names = ["2026-11-28.jsonl", "2026-11-29.jsonl", "2026-11-30.jsonl"]
    assert store.names("audit") == names
    assert [line["method"] for line in lines(store)] == ["a", "b"] * 3
    assert lines(store)[0]["time"] == "2026-11-28T23:59:59.000+00:00"


def test_a_line_that_the_store_does_not_take_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ArtifactStore(tmp_path)

    def away() -> None:
        raise Unavailable("the store is not mounted")

    store.guard(away)
    with caplog.at_level(logging.ERROR):
        AuditLog(store, 1).write({"method": "JobService/CancelJob"})
    assert "not mounted" in caplog.text
    assert "JobService/CancelJob" in caplog.text
    assert not (tmp_path / "audit").exists()


def _write_many(folder: Path, name: str) -> None:
    audit = AuditLog(ArtifactStore(folder), 1)
    for _ in range(50):
        audit.write({"method": name * 100})


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_many, args=(tmp_path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    found = [line["method"][0] for line in lines(ArtifactStore(tmp_path))]
    assert sorted(found) == sorted("abc" * 50)


def served(store: ArtifactStore, protection: Protection, act: Callable[[str], None]) -> None:
    async def whole() -> None:
        server = GrpcServer(
            "127.0.0.1:0", [SERVICE], Metrics("t"), grace_seconds=0, protection=protection
        )
        await server.start()
        try:
            await asyncio.to_thread(act, server.bound)
        finally:
            await server.stop()

    asyncio.run(whole())


def call(address: str, method: str, request: bytes, access: Access = PLAIN) -> str:
    with open_channel(address, access) as channel:
        known: Any = channel
        streams = method.startswith("Stream")
        kind = f"{'stream' if streams else 'unary'}_{'stream' if method.endswith('m') else 'unary'}"
        try:
            answer = getattr(known, kind)(f"/{NAME}/{method}")(
                iter([request]) if streams else request, timeout=10
            )
            if kind.endswith("stream"):
                list(answer)
        except grpc.RpcError as error:
            return cast("grpc.Call", error).code().name
    return "OK"


def protected(store: ArtifactStore) -> Protection:
    return Protection(None, TokenVerifier(TokenStore(store)), AuditLog(store, 1))


def test_changes_are_written_with_who_and_where_and_how_they_ended(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    token = Tokens(store).make(Scope.SUBMIT, owner="alice")
    access = Access(token=token)

    def act(address: str) -> None:
        assert call(address, "UnaryUnary", b"x", access) == "OK"
        assert call(address, "StreamUnary", b"x", access) == "OK"
        assert call(address, "StreamStream", b"x", access) == "OK"
        assert call(address, "UnaryUnary", b"conflict", access) == "ALREADY_EXISTS"
        assert call(address, "UnaryStream", b"x", access) == "PERMISSION_DENIED"

    served(store, protected(store), act)
    found = lines(store)
    assert [(line["method"], line["code"], line["reason"]) for line in found] == [
        (f"{NAME}/UnaryUnary", "OK", ""),
        (f"{NAME}/StreamUnary", "OK", ""),
        (f"{NAME}/StreamStream", "OK", ""),
        (f"{NAME}/UnaryUnary", "ALREADY_EXISTS", "CONFLICT"),
    ]
    assert {line["owner"] for line in found} == {"alice"}
    assert {line["token"] for line in found} == {token.split("_")[1]}
    assert all(line["from"].startswith("ipv4:127.0.0.1:") for line in found)
    assert token.rpartition("_")[2] not in str(found)


def test_strangers_are_written_too_but_cannot_fill_the_disk(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def act(address: str) -> None:
        assert {call(address, "UnaryUnary", b"x") for _ in range(40)} == {"UNAUTHENTICATED"}

    served(store, protected(store), act)
    found = lines(store)
    assert 1 <= len(found) < 40
    assert {(line["token"], line["reason"]) for line in found} == {("", "TOKEN_MISSING")}


def test_the_certificate_of_a_client_is_named(tmp_path: Path) -> None:
    store, authority = ArtifactStore(tmp_path / "store"), Authority(tmp_path)
    mine = authority.issue("robot@lab.test")
    tls = server_tls(authority.tls(authority.ca), Metrics("tls"))
    access = Access(authority.ca, mine.certificate, mine.key)

    def act(address: str) -> None:
        assert call(address, "UnaryUnary", b"x", access) == "OK"

    served(store, Protection(tls, None, AuditLog(store, 1)), act)
    assert [line["certificate"] for line in lines(store)] == ["robot@lab.test"]
