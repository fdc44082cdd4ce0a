"""The worker as a program."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from saeserve.worker import __main__ as program


def run(code: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if "SAESERVE_" not in key}
    return subprocess.run(
        [sys.executable, *code],
        env=plain | {f"SAESERVE_{key.upper()}": value for key, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_worker_itself_loads_no_torch() -> None:
    code = "import sys, saeserve.worker.__main__; sys.exit('torch' in sys.modules)"
    assert run(["-c", code]).returncode == 0


def test_a_wrong_setting_is_told_in_one_line() -> None:
    ended = run(["-m", "saeserve.worker"], lease_seconds="-1")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "SAESERVE_LEASE_SECONDS" in line


def test_metrics_stay_on_this_machine_unless_told_otherwise() -> None:
    ended = run(["-m", "saeserve.worker"], worker_metrics_address="0.0.0.0:0")
    assert ended.returncode == 2
    assert "0.0.0.0" in ended.stderr


@pytest.mark.parametrize(("drained", "code"), [(True, 0), (False, program.ENDED_BY_ITSELF)])
def test_the_exit_code_tells_a_drain_from_an_end_by_itself(
    monkeypatch: pytest.MonkeyPatch, drained: bool, code: int
) -> None:
    def serve(*_: object) -> bool:
        return drained

    monkeypatch.setenv("SAESERVE_WORKER_METRICS_ADDRESS", "127.0.0.1:0")
    monkeypatch.setattr(program, "serve", serve)
    with pytest.raises(SystemExit) as ended:
        program.run("worker", program.main)
    assert ended.value.code == code
    assert program.ENDED_BY_ITSELF != 0
