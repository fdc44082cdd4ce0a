"""Settings from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from saeserve.errors import StartupError
from saeserve.platform.settings import BrokerSettings, ServiceSettings
from saeserve.worker.settings import WorkerSettings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "STORE",
        "RUN",
        "REDIS_URL",
        "ROOTS",
        "INSECURE",
        "LOG_LEVEL",
        "BROKER_PORT",
        "UMASK",
    ):
        monkeypatch.delenv(f"SAESERVE_{name}", raising=False)


def test_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESERVE_STORE", "/data/store")
    monkeypatch.setenv("SAESERVE_ROOTS", '{"text": "/data/text"}')
    monkeypatch.setenv("SAESERVE_INSECURE", "true")
    settings = ServiceSettings.load()
    assert settings.store == Path("/data/store")
    assert settings.roots == {"text": Path("/data/text")}
    assert settings.insecure


def test_the_broker_is_the_embedded_one_unless_named(tmp_path: Path) -> None:
    own = ServiceSettings(run=tmp_path)
    assert own.broker_url == f"unix://{tmp_path.resolve()}/valkey.sock"
    named = ServiceSettings(run=tmp_path, redis_url="redis://h:1/0")
    assert named.broker_url == "redis://h:1/0"


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESERVE_LOG_LEVEL", "")
    assert ServiceSettings.load().log_level == "INFO"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAESERVE_LOG_LEVEL", "loud"),
        ("SAESERVE_INSECURE", "perhaps"),
        ("SAESERVE_BROKER_PORT", "70000"),
        ("SAESERVE_UMASK", "8"),
        ("SAESERVE_ROOTS", "{not json"),
    ],
)
def test_a_wrong_value_names_its_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as caught:
        BrokerSettings.load()
    assert name.removeprefix("SAESERVE_") in caught.value.message.upper()
    assert caught.value.remedy


def test_settings_are_frozen() -> None:
    settings = ServiceSettings()
    with pytest.raises(ValidationError):
        settings.insecure = True


@pytest.mark.parametrize(
    ("name", "value"), [("SAESERVE_WORKER_CLASSES", "gpu"), ("SAESERVE_ROOTS", "{not json")]
)
def test_a_value_that_is_not_json_names_its_own_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as caught:
        WorkerSettings.load()
    assert caught.value.message.startswith(f"{name} is not JSON: {value!r}")


def test_an_item_that_is_wrong_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESERVE_WORKER_CLASSES", "[1]")
    with pytest.raises(StartupError, match=r"SAESERVE_WORKER_CLASSES\[0\]"):
        WorkerSettings.load()


def test_a_misspelt_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SAESERVE_STOER", "/data")
    monkeypatch.setenv("SAESERVE_COLOUR", "red")
    monkeypatch.setenv("SAESERVE_CONTROL_PORT_7070_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("SAESERVE_CONTROL_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("SAESERVE_INFERENCE_QUEUE_ROWS", "1000")
    ServiceSettings.load()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("SAESERVE_COLOUR is not a setting")
    assert "SAESERVE_STOER is not a setting" in told[1]
    assert "did you mean SAESERVE_STORE?" in told[1]
