"""What the doctor says of workers, and how presets are listed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from tests.fakes.terminal import run_here

from saeserve.cli import doctor_workers, presets
from saeserve.cli.doctor_workers import workers
from saeserve.cli.settings import CliSettings
from saeserve.client.errors import UnavailableError
from saeserve.client.server import Preset, ResourceClass, WorkerMachine

CPU = WorkerMachine("a processor, 2 threads", 2**34)
GPU = WorkerMachine("NVIDIA H100 80GB HBM3", 80 * 2**30)


class FakeClient:
    """Answers with what it was given."""

    def __init__(self, **server: object) -> None:
        self.server = SimpleNamespace(**server)

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        return


def found(
    classes: tuple[ResourceClass, ...], monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[str, str]]:
    def client_of(_settings: object, timeout: float) -> FakeClient:
        assert timeout > 0
        return FakeClient(workers=lambda: classes)

    monkeypatch.setattr(doctor_workers, "client_of", client_of)
    return {each.subject: (each.verdict, each.detail) for each in workers(CliSettings())}


def test_workers_are_told_by_class_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = (ResourceClass("cpu", (CPU, CPU), 3), ResourceClass("gpu", (GPU,), 0))
    assert found(classes, monkeypatch) == {
        "workers of class cpu": ("ok", "2 × a processor, 2 threads, 16.0 GiB; 3 queued"),
        "workers of class gpu": ("ok", "1 × NVIDIA H100 80GB HBM3, 80.0 GiB; nothing queued"),
    }


@pytest.mark.parametrize(
    ("machines", "queued", "verdict"), [((CPU,), 0, "ok"), ((CPU,), 1, "warn"), ((), 0, "warn")]
)
def test_a_class_without_workers_is_a_warning_where_jobs_wait_for_it(
    machines: tuple[WorkerMachine, ...],
    queued: int,
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classes = (ResourceClass("cpu", machines, 0), ResourceClass("gpu", (), queued))
    assert found(classes, monkeypatch)["workers of class gpu"][0] == verdict


def test_a_server_that_does_not_say_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def client_of(_settings: object, timeout: float) -> FakeClient:
        raise UnavailableError("the broker is out of reach", remedy=f"wait {timeout:g} s")

    monkeypatch.setattr(doctor_workers, "client_of", client_of)
    [finding] = workers(CliSettings())
    assert finding.verdict == "warn"
    assert "out of reach" in finding.detail


PRESETS = (
    Preset("openai-topk-2024", "Gao et al. 2024, arXiv 2406.04093: k = 32", {"topk": {"k": 32}}),
    Preset("gemma-scope", "Lieberum et al.: L0", {"jumprelu": {}, "target_l0": 100.0}),
)


def test_presets_are_listed_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(presets, "connect", lambda: FakeClient(presets=lambda: PRESETS))
    ran = run_here(monkeypatch, capsys, "presets")
    assert ran.out.splitlines()[1].split()[:2] == ["openai-topk-2024", "topk"]
    assert "Gao et al. 2024, arXiv 2406.04093" in ran.out
    one = run_here(monkeypatch, capsys, "presets", "gemma-scope", "--json")
    assert json.loads(one.out)["spec"]["target_l0"] == 100.0
    wrong = run_here(monkeypatch, capsys, "presets", "gemma-scop")
    assert wrong.code == 1
    assert "did you mean gemma-scope?" in wrong.line
