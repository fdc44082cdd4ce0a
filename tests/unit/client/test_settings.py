"""Where the SDK finds the services, and what the errors that it raises itself are called."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from saeserve.cli.settings import CliSettings
from saeserve.client import Client
from saeserve.client import errors as client_errors
from saeserve.client.access import Access
from saeserve.client.errors import ClientError, InvalidArgumentError, UnavailableError
from saeserve.client.settings import ClientEnvironment

ROOM = Path(client_errors.__file__).parent


def refused(client: Client) -> str:
    with client, pytest.raises(UnavailableError) as caught:
        client.jobs.get("j-00000000000000000001")
    return caught.value.message


def test_a_client_reads_the_addresses_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESERVE_CONTROL_ADDRESS", "127.0.0.1:2")
    monkeypatch.setenv("SAESERVE_INFERENCE_ADDRESS", "127.0.0.1:3")
    assert "127.0.0.1:2" in refused(Client(timeout=5))
    assert "127.0.0.1:4" in refused(Client("127.0.0.1:4", timeout=5))
    with Client(timeout=5) as client, pytest.raises(UnavailableError, match=r"127\.0\.0\.1:3"):
        client.encode("sae", [[1.0]])


def test_what_is_unset_or_empty_is_a_stack_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAESERVE_CONTROL_ADDRESS", raising=False)
    monkeypatch.setenv("SAESERVE_INFERENCE_ADDRESS", "")
    assert ClientEnvironment.load() == ClientEnvironment("127.0.0.1:7070", "127.0.0.1:7071")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ClientEnvironment)])
def test_sdk_and_command_line_read_the_same_variables(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for value in ("", "/run/sae.sock"):
        monkeypatch.setenv(f"SAESERVE_{name.upper()}", value)
        found = getattr(ClientEnvironment.load(), name)
        assert found == str(getattr(CliSettings.load(), name) or "")
        assert found == (value or getattr(ClientEnvironment, name))


def test_certificates_of_the_environment_are_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAESERVE_TLS_CA", str(tmp_path / "ca.pem"))
    with pytest.raises(InvalidArgumentError, match=r"ca\.pem cannot be read"):
        Client("127.0.0.1:1", "127.0.0.1:1")
    Client("127.0.0.1:1", "127.0.0.1:1", access=Access()).close()


def subclasses() -> list[type[ClientError]]:
    return ClientError.__subclasses__()


@pytest.mark.parametrize("kind", subclasses(), ids=lambda kind: kind.__name__)
def test_errors_that_the_sdk_raises_carry_the_code_of_their_kind(kind: type[ClientError]) -> None:
    error = kind("text", remedy="do this")
    assert error.code == kind.CODE != "UNKNOWN"
    assert str(error) == "text — do this"


def test_no_refusal_of_the_sdk_is_of_an_unknown_kind_or_without_a_reason() -> None:
    """Every raise of the room has a kind of its own (or names a code), and a reason."""
    kinds = {kind.__name__ for kind in subclasses()}
    bad: list[str] = []
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                given = {keyword.arg for keyword in node.keywords}
                wanted = {"reason"} if node.func.id in kinds else {"reason", "code"}
                if node.func.id in {*kinds, "ClientError"} and not wanted <= given:
                    bad.append(f"{path.name}:{node.lineno}")
    assert bad == []
