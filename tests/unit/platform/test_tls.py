"""TLS and mutual TLS of a server: who gets in, and new files without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry
from tests.fakes.certificates import Authority, CertificateFiles, self_signed
from tests.fakes.echo_service import ECHO, NAME

from saeserve.client.access import PLAIN, Access
from saeserve.client.channel import open_channel
from saeserve.client.errors import UnavailableError, translated
from saeserve.errors import StartupError
from saeserve.platform import healthcheck
from saeserve.platform.grpc_server import GrpcServer
from saeserve.platform.metrics import Metrics
from saeserve.platform.protection import Protection, server_tls
from saeserve.platform.settings import ServiceSettings
from saeserve.platform.tls import ServerTls
from saeserve.platform.tls_files import TlsFiles

EXPIRY = "saeserve_tls_certificate_expiry_timestamp_seconds"


def served(tls: TlsFiles, act: Callable[[str], None], address: str = "127.0.0.1:0") -> None:
    """Run `act` in a thread with the address of an echo server that has `tls`."""

    async def whole() -> None:
        metrics = Metrics("test")
        server = GrpcServer(
            address,
            [ECHO],
            metrics,
            grace_seconds=0,
            protection=Protection(server_tls(tls, metrics)),
        )
        await server.start()
        try:
            await asyncio.to_thread(act, server.bound)
        finally:
            await server.stop()

    asyncio.run(whole())


def echo(address: str, access: Access) -> bytes:
    with translated(address), open_channel(address, access) as channel:
        return cast(Any, channel).unary_unary(f"/{NAME}/UnaryUnary")(b"in", timeout=10)


def access(ca: Path | None, client: CertificateFiles | None = None) -> Access:
    return Access(ca, client.certificate if client else None, client.key if client else None)


def test_tls_answers_those_who_know_its_ca_and_nobody_else(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")

    def act(address: str) -> None:
        host = address.replace("127.0.0.1", "localhost")
        assert echo(address, access(authority.ca)) == b"in"
        assert echo(f"https://{host}", access(authority.ca)) == b"in"
        assert echo(f"grpcs://{address}/", access(authority.ca)) == b"in"
        for stranger in (access(other.ca), Access()):
            with pytest.raises(UnavailableError):
                echo(f"https://{address}", stranger)
        with pytest.raises(UnavailableError):
            echo(address, PLAIN)

    served(authority.tls(), act)


def test_an_error_of_tls_says_what_to_give(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")

    def act(address: str) -> None:
        with pytest.raises(UnavailableError) as caught:
            echo(address, access(other.ca))
        assert "CA of the server's certificate" in caught.value.remedy

    served(authority.tls(), act)


def test_a_certificate_for_another_host_is_refused_by_the_client(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    elsewhere = authority.issue("elsewhere.test")

    def act(address: str) -> None:
        with pytest.raises(UnavailableError, match=r"[Vv]erif"):
            echo(address, access(authority.ca))

    served(TlsFiles(elsewhere.certificate, elsewhere.key), act)


def test_mutual_tls_asks_for_a_certificate_of_its_clients_ca(tmp_path: Path) -> None:
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    stale = clients.issue(expires=datetime.now(UTC) - timedelta(minutes=1))

    def act(address: str) -> None:
        assert echo(address, access(authority.ca, clients.issue("me"))) == b"in"
        for wrong in (None, authority.issue("me"), self_signed(tmp_path), stale):
            with pytest.raises(UnavailableError):
                echo(address, access(authority.ca, wrong))

    served(authority.tls(clients.ca), act)


@contextlib.contextmanager
def open_stream(address: str, ca: Path) -> Generator[Callable[[bytes], bytes]]:
    """Sends over one stream, and gives what comes back."""
    with open_channel(address, access(ca)) as channel:
        sent: list[bytes] = []

        def requests() -> Generator[bytes]:
            while True:
                while not sent:
                    ready.wait()
                ready.clear()
                if (data := sent.pop()) == b"":
                    return
                yield data

        ready = threading.Event()
        answers = cast(Any, channel).stream_stream(f"/{NAME}/StreamStream")(requests(), timeout=60)

        def send(data: bytes) -> bytes:
            sent.append(data)
            ready.set()
            return next(answers)

        yield send
        sent.append(b"")
        ready.set()


def test_a_renewed_certificate_serves_new_connections_and_breaks_no_stream(tmp_path: Path) -> None:
    first, second = Authority(tmp_path), Authority(tmp_path, "second")
    files = first.issue()

    def act(address: str) -> None:
        with open_stream(address, first.ca) as send:
            assert send(b"before") == b"before"
            files.become(second.issue())
            assert echo(address, access(second.ca)) == b"in"
            with pytest.raises(UnavailableError):
                echo(address, access(first.ca))
            assert send(b"after") == b"after"

    served(TlsFiles(files.certificate, files.key), act)


def test_a_linked_folder_that_is_swapped_is_a_renewal(tmp_path: Path) -> None:
    """As Kubernetes renews a Secret's files."""
    first, second = Authority(tmp_path), Authority(tmp_path, "second")
    for number, authority in enumerate((first, second)):
        folder = tmp_path / f"v{number}"
        folder.mkdir()
        made = authority.issue()
        os.replace(made.certificate, folder / "tls.crt")
        os.replace(made.key, folder / "tls.key")
    data = tmp_path / "data"
    data.symlink_to("v0")

    def act(address: str) -> None:
        assert echo(address, access(first.ca)) == b"in"
        (tmp_path / "next").symlink_to("v1")
        os.replace(tmp_path / "next", data)
        assert echo(address, access(second.ca)) == b"in"

    served(TlsFiles(data / "tls.crt", data / "tls.key"), act)


def test_the_authority_of_clients_is_renewed_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    tls = authority.tls(old.ca)

    def act(address: str) -> None:
        mine = new.issue("me")
        with pytest.raises(UnavailableError):
            echo(address, access(authority.ca, mine))
        os.replace(new.ca, old.ca)
        assert echo(address, access(authority.ca, mine)) == b"in"

    served(tls, act)


def test_a_renewal_that_cannot_serve_changes_nothing_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()

    def act(address: str) -> None:
        good = files.certificate.read_bytes()
        files.certificate.write_bytes(b"half a certif")
        for _ in range(2):
            assert echo(address, access(authority.ca)) == b"in"
        files.certificate.unlink()
        assert echo(address, access(authority.ca)) == b"in"
        files.certificate.write_bytes(good)
        assert echo(address, access(authority.ca)) == b"in"

    with caplog.at_level(logging.INFO, "saeserve"):
        served(TlsFiles(files.certificate, files.key), act)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("tls")]
    assert len(said) == 3
    assert ["former certificate stays" in each for each in said] == [True, True, False]


def test_the_time_of_expiry_is_a_figure(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    ServerTls(Authority(tmp_path).tls(expires=expires), registry)
    assert registry.get_sample_value(EXPIRY) == expires.timestamp()


def test_a_key_that_everybody_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Authority(tmp_path).tls()
    tls.key.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        ServerTls(tls)
    assert "chmod 600" in caplog.text


def test_a_server_does_not_start_with_a_certificate_that_has_expired(tmp_path: Path) -> None:
    stale = Authority(tmp_path).tls(expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(StartupError, match="expired at"):
        served(stale, lambda _: None)


def test_with_tls_a_server_may_be_reached_from_elsewhere(tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    def act(address: str) -> None:
        assert echo(address.replace("0.0.0.0", "127.0.0.1"), access(authority.ca)) == b"in"

    served(authority.tls(), act, "0.0.0.0:0")


def test_a_unix_socket_is_answered_without_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    address = f"unix:{tmp_path}/s"

    def act(bound: str) -> None:
        assert echo(bound, PLAIN) == b"in"
        assert echo(bound, access(authority.ca)) == b"in"

    served(authority.tls(), act, address)


@pytest.mark.parametrize("mutual", [False, True])
def test_the_health_check_needs_neither_ca_nor_token(
    mutual: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("control.test")
    tls = TlsFiles(pair.certificate, pair.key, authority.ca if mutual else None)
    monkeypatch.setenv("SAESERVE_TLS_CERT", str(tls.certificate))
    monkeypatch.setenv("SAESERVE_TLS_KEY", str(tls.key))

    def act(address: str) -> None:
        assert healthcheck.main([address, NAME]) == 0
        assert healthcheck.main([f"https://{address}"]) == 0
        monkeypatch.delenv("SAESERVE_TLS_CERT")
        monkeypatch.delenv("SAESERVE_TLS_KEY")
        assert healthcheck.main([address]) == 1
        assert (healthcheck.main([f"https://{address}"]) == 0) is not mutual

    served(tls, act)


def test_the_health_check_shows_a_certificate_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    mine = clients.issue("probe")
    tls = authority.tls(clients.ca)
    settings = {
        "TLS_CERT": tls.certificate,
        "TLS_KEY": tls.key,
        "CLIENT_CERT": mine.certificate,
        "CLIENT_KEY": mine.key,
    }
    for name, path in settings.items():
        monkeypatch.setenv(f"SAESERVE_{name}", str(path))
    served(tls, lambda address: _healthy(address))


def _healthy(address: str) -> None:
    assert healthcheck.main([address]) == 0


def test_the_health_check_finds_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main(["https://127.0.0.1:1"]) == 1
    assert "refused" in capfd.readouterr().err


def test_a_reload_is_seen_by_an_asynchronous_client_as_well(tmp_path: Path) -> None:
    """The fetcher runs in gRPC's threads while the event loop serves: neither waits."""
    authority = Authority(tmp_path)
    files = authority.issue()
    tls = TlsFiles(files.certificate, files.key)

    async def whole() -> list[bytes]:
        metrics = Metrics("test")
        server = GrpcServer(
            "127.0.0.1:0",
            [ECHO],
            metrics,
            grace_seconds=0,
            protection=Protection(server_tls(tls, metrics)),
        )
        await server.start()
        try:
            found: list[bytes] = []
            async for answer in _answers(server.bound, authority, files):
                found.append(answer)
            return found
        finally:
            await server.stop()

    assert asyncio.run(whole()) == [b"0", b"1", b"2"]


async def _answers(
    address: str, authority: Authority, files: CertificateFiles
) -> AsyncIterator[bytes]:
    credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
    for number in range(3):
        files.become(authority.issue())
        async with grpc.aio.secure_channel(address, credentials) as channel:
            yield await cast(Any, channel).unary_unary(f"/{NAME}/UnaryUnary")(b"%d" % number)


def test_settings_name_both_files(tmp_path: Path) -> None:
    tls = Authority(tmp_path).tls()
    settings = ServiceSettings(tls_cert=tls.certificate, tls_key=tls.key)
    assert settings.tls == tls
    assert ServiceSettings().tls is None
    for half in ({"tls_cert": tls.certificate}, {"tls_key": tls.key}, {"tls_client_ca": tls.key}):
        with pytest.raises(StartupError, match="belong together"):
            _ = ServiceSettings(**cast(Any, half)).tls
    assert replace(tls, client_ca=tls.key).paths() == [tls.certificate, tls.key, tls.key]
