"""Starting and stopping services as children."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from saeserve.cli.stack import FIRST_PAUSE_S, KEPT_LOGS, RESTARTS, Service, Stack, child_environment
from saeserve.errors import StartupError

GOOD = "import sys, time; print('x: ready port=1', file=sys.stderr, flush=True); time.sleep(60)"
BAD = "import sys; print('no such disk', file=sys.stderr); sys.exit(2)"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def modules(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "good_service.py").write_text(GOOD)
    (tmp_path / "bad_service.py").write_text(BAD)
    return child_environment({"PYTHONPATH": str(tmp_path)})


def test_starts_says_ready_and_stops(tmp_path: Path, modules: dict[str, str]) -> None:
    said: list[tuple[str, str]] = []
    stack = Stack(
        [Service("good", "good_service")],
        tmp_path / "logs",
        modules,
        lambda name, facts: said.append((name, facts)),
    )
    stack.start()
    pid = stack.pids()["good"]
    assert said == [("good", "port=1")]
    assert stack.ended() == ""
    stack.stop()
    assert not _alive(pid)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("level", ["INFO", "ERROR"])
def test_services_are_seen_to_be_ready_whatever_they_log(
    tmp_path: Path, form: str, level: str
) -> None:
    (tmp_path / "real_service.py").write_text(
        "import time\nfrom saeserve.platform import logging\n"
        f"logging.configure({level!r}, {form!r})\n"
        "logging.ready('real', port=1, address='127.0.0.1:1')\ntime.sleep(60)\n"
    )
    said: list[str] = []
    stack = Stack(
        [Service("real", "real_service")],
        tmp_path / "logs",
        child_environment({"PYTHONPATH": str(tmp_path)}),
        lambda _name, facts: said.append(facts),
    )
    stack.start()
    stack.stop()
    assert said == ["port=1 address=127.0.0.1:1"]


def test_one_that_fails_stops_the_others_and_shows_its_log(
    tmp_path: Path, modules: dict[str, str]
) -> None:
    services = [Service("good", "good_service"), Service("bad", "bad_service")]
    said: list[tuple[str, str]] = []
    stack = Stack(
        services, tmp_path / "logs", modules, lambda name, facts: said.append((name, facts))
    )
    with pytest.raises(StartupError, match="no such disk"):
        stack.start()
    assert stack.pids() == {}


def test_a_killed_service_is_started_again_but_not_for_ever(
    tmp_path: Path, modules: dict[str, str]
) -> None:
    said: list[str] = []
    services = [Service("good", "good_service")]
    stack = Stack(services, tmp_path / "logs", modules, lambda name, _: said.append(name))
    stack.start()
    try:
        for restart in range(RESTARTS):
            before = stack.pids()["good"]
            _kill(stack)
            assert stack.restart("good")
            assert stack.pids()["good"] != before
            assert stack.ended() == ""
            assert said == ["good"] * (restart + 2)
        _kill(stack)
        assert not stack.restart("good")
        # What earlier processes said is still there.
        assert stack.log_tail("good").count("ready") == RESTARTS + 1
    finally:
        stack.stop()


def test_logs_of_earlier_runs_are_kept(tmp_path: Path, modules: dict[str, str]) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "good.log").write_text("crashed")
    for _ in range(KEPT_LOGS + 2):
        stack = Stack([Service("good", "good_service")], logs, modules, lambda _n, _f: None)
        stack.start()
        stack.stop()
        if not (logs / "good.log.2").exists():
            assert (logs / "good.log.1").read_text() == "crashed"
    names = {path.name for path in logs.iterdir()}
    assert names == {"good.log", *(f"good.log.{n}" for n in range(1, KEPT_LOGS + 1))}


TALKER = """
import sys, time
print('INFO x: ready port=1', file=sys.stderr, flush=True)
for number in range(10_000):
    print(f'line {number:05d}', flush=True)
    time.sleep(0.001)
"""


def test_a_long_log_is_rotated_while_its_service_runs(
    tmp_path: Path, modules: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saeserve.cli.stack.LOG_BYTES", 2_000)
    (tmp_path / "talker.py").write_text(TALKER)
    logs = tmp_path / "logs"
    stack = Stack([Service("talker", "talker")], logs, modules, lambda _n, _f: None)
    stack.start()
    last = logs / f"talker.log.{KEPT_LOGS}"
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        stack.rotate()
        time.sleep(0.02)
    assert stack.ended() == ""
    stack.stop()
    names = {path.name for path in logs.iterdir()}
    assert names == {"talker.log", *(f"talker.log.{n}" for n in range(1, KEPT_LOGS + 1))}
    newest, older = (logs / f"talker.log.{n}" for n in (1, 2))
    assert 2_000 < older.stat().st_size < 100_000
    assert older.read_text().splitlines()[-2] < newest.read_text().splitlines()[1]
    assert b"\0" not in (logs / "talker.log").read_bytes(), "it appends after the rotation"


def test_restarts_wait_longer_each_time(tmp_path: Path, modules: dict[str, str]) -> None:
    stack = Stack([Service("good", "good_service")], tmp_path, modules, lambda _n, _f: None)
    stack.start()
    try:
        pauses: list[float] = []
        for _ in range(3):
            _kill(stack)
            pauses.append(stack.pause_s("good"))
            assert stack.restart("good")
    finally:
        stack.stop()
    assert pauses == [0.0, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]


def test_one_that_cannot_start_again_takes_nobody_with_it(
    tmp_path: Path, modules: dict[str, str]
) -> None:
    services = [Service("good", "good_service"), Service("other", "other_service")]
    (tmp_path / "other_service.py").write_text(GOOD)
    stack = Stack(services, tmp_path / "logs", modules, lambda _n, _f: None)
    stack.start()
    try:
        (tmp_path / "other_service.py").write_text(BAD)
        os.kill(stack.pids()["other"], signal.SIGKILL)
        while not stack.ended():
            time.sleep(0.01)
        for _ in range(RESTARTS):
            assert stack.restart("other")
            assert stack.ended() == "other"
            assert _alive(stack.pids()["good"])
        assert not stack.restart("other")
        assert "no such disk" in stack.log_tail("other")
    finally:
        stack.stop()


def _kill(stack: Stack) -> None:
    os.kill(stack.pids()["good"], signal.SIGKILL)
    while not stack.ended():
        time.sleep(0.01)
