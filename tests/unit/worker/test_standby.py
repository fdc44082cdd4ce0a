"""The process that waits for the next job, by itself: real processes that play parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest
from tests.fakes.worker_bench import until

from saeserve.jobs.record import Claim
from saeserve.platform.process import show_command
from saeserve.worker import standby as module
from saeserve.worker.order import JobOrder
from saeserve.worker.standby import Standby, command

OBEDIENT = """
import os, sys
pipe = int(sys.argv[2])
os.write(pipe, b"loaded\\nwarm\\n")
line = sys.stdin.readline()
os.write(pipe, b"taken\\n")
sys.exit(3 if line else 4)
"""
DEAF = """
import os, sys, time
os.write(int(sys.argv[2]), b"loaded\\n")
time.sleep(600)
"""
DEAD = "raise SystemExit(1)"
Make = Callable[[str], Standby]


def order(folder: Path) -> JobOrder:
    return JobOrder(
        claim=Claim(job="j-1", epoch=1, owner="w", time=0.0),
        store=folder,
        roots={},
        parent=os.getpid(),
        stop_grace_s=1,
        torch_threads=1,
    )


def never() -> bool:
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Generator[Make]:
    monkeypatch.setattr(module, "TAKE_S", 0.2)
    monkeypatch.setattr(module, "AFTER_DEATH_S", 0.0)
    made: list[Standby] = []

    def playing(part: str) -> Standby:
        def words(parent: int, pipe: int, threads: int) -> Sequence[str]:
            return [sys.executable, "-S", "-c", part, str(parent), str(pipe), str(threads)]

        standby = Standby(1, 0.5, words, renew_s=0.0)
        made.append(standby)
        standby.start()
        return standby

    yield playing
    for each in made:
        each.close()


def test_the_waiting_process_gets_the_order_and_another_follows(make: Make, tmp_path: Path) -> None:
    standby = make(OBEDIENT)
    until(lambda: standby.warm)
    first = standby.pid
    child = standby.take(order(tmp_path), never)
    assert child is not None
    assert child.pid == first
    assert child.poll(20) == 3
    until(lambda: standby.warm)
    assert standby.pid != first


def test_a_process_that_dies_is_replaced(make: Make) -> None:
    standby = make(OBEDIENT)
    until(lambda: standby.warm)
    first = standby.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: standby.warm and standby.pid != first)


@pytest.mark.parametrize("part", [DEAF, DEAD])
def test_a_process_that_takes_no_order_is_given_up(make: Make, part: str, tmp_path: Path) -> None:
    standby = make(part)
    until(lambda: standby.pid is not None)
    pid = standby.pid
    assert pid is not None
    assert standby.take(order(tmp_path), never) is None
    until(lambda: not alive(pid))


def test_a_stopped_process_is_given_up_too(make: Make, tmp_path: Path) -> None:
    standby = make(OBEDIENT)
    until(lambda: standby.warm)
    pid = standby.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert standby.take(order(tmp_path), never) is None
    until(lambda: not alive(pid))


def test_a_wish_to_stop_is_heard_while_the_order_is_handed_over(make: Make, tmp_path: Path) -> None:
    standby = make(DEAF)
    until(lambda: standby.pid is not None)
    child = standby.take(order(tmp_path), lambda: True)
    assert child is not None
    child.stop()
    assert child.poll(20) == -signal.SIGTERM


def test_a_drain_ends_the_waiting_process_and_none_follows(make: Make, tmp_path: Path) -> None:
    standby = make(OBEDIENT)
    until(lambda: standby.warm)
    pid = standby.pid
    assert pid is not None
    standby.stop()
    until(lambda: standby.pid is None)
    assert not alive(pid)
    assert standby.take(order(tmp_path), never) is None


def test_the_real_process_loads_everything_and_ends_with_its_input() -> None:
    standby = Standby(1, 1.0)
    standby.start()
    try:
        until(lambda: standby.warm, 120)
        pid = standby.pid
        assert pid is not None
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "libtorch" in mapped
        assert "tokenizers" not in mapped  # transformers', which few jobs need
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"OMP_WAIT_POLICY=" in environment
    finally:
        standby.close()
    assert not alive(pid)


def test_the_command_line_has_room_for_an_order(tmp_path: Path) -> None:
    words = command(1, 2, 3)
    assert len(" ".join(words)) > len(order(tmp_path).model_dump_json())


def test_a_process_shows_another_command_where_it_has_room() -> None:
    code = (
        "import sys; from saeserve.platform.process import show_command;"
        "print(show_command(['job', 'x' * 5000]), show_command(['job', 'j-1']));"
        "print(open('/proc/self/cmdline').read().rstrip(chr(0)).split(chr(0)))"
    )
    shown = subprocess.check_output([sys.executable, "-c", code, " " * 500], text=True)
    assert shown.splitlines() == ["False True", "['job', 'j-1']"]
    assert not show_command(["y" * 10**6])


def test_a_process_whose_worker_has_gone_ends_without_a_traceback() -> None:
    words = [str(os.getppid()), "1", "1"]
    command = [sys.executable, "-m", "saeserve.worker.standby_process", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
