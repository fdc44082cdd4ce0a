"""What the doctor finds on a machine that only calls a deployment, and on one that runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeserve.cli import doctor
from saeserve.cli.doctor import Finding, findings
from saeserve.cli.settings import CliSettings

Verdicts = dict[str, str]


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch sees has tests of its own; each look would import torch in a new process."""
    monkeypatch.setattr(doctor, "accelerator", lambda: Finding("gpu", "ok", "not looked at"))


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    def health(name: str, address: str, _: CliSettings) -> Finding:
        return Finding(name, "ok", f"{address} answers")

    monkeypatch.setattr(doctor, "_health", health)


def verdicts(settings: CliSettings) -> Verdicts:
    return {finding.subject: finding.verdict for finding in findings(settings)}


def settings_in(folder: Path, **more: object) -> CliSettings:
    return CliSettings.model_validate(
        {"store": folder / "store", "run": folder / "run", "insecure": False, **more}
    )


@pytest.mark.usefixtures("healthy")
def test_a_remote_deployment_needs_nothing_here(tmp_path: Path) -> None:
    remote = settings_in(
        tmp_path, control_address="gpu-box:7070", inference_address="10.0.0.7:7071"
    )
    found = verdicts(remote)
    assert "fail" not in found.values()
    assert found["store"] == found["broker"] == "ok"
    assert found["control exposure"] == "warn"
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"


@pytest.mark.usefixtures("healthy")
def test_published_ports_of_this_host_are_a_deployment_too(tmp_path: Path) -> None:
    assert "fail" not in verdicts(settings_in(tmp_path)).values()


@pytest.mark.usefixtures("healthy")
def test_a_broker_that_should_be_here_is_missed(tmp_path: Path) -> None:
    named = settings_in(tmp_path, redis_url="redis://127.0.0.1:1/0")
    assert verdicts(named)["broker"] == "fail"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "valkey.sock").touch()
    assert verdicts(settings_in(tmp_path))["broker"] == "fail"


def test_without_services_everything_is_looked_for_here(tmp_path: Path) -> None:
    nowhere = "127.0.0.1:1"
    found = verdicts(
        settings_in(tmp_path, control_address=nowhere, inference_address="10.255.255.1:1")
    )
    assert found["control"] == found["inference"] == found["broker"] == "fail"
    assert found["inference exposure"] == "fail"
