"""Job processes as their supervisor holds them, and as they hold on to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.worker_bench import until

from saeserve.worker.child import DEFAULTS, Child

ORPHAN = """
import os, subprocess, sys, time
code = '''
import os, signal, sys, threading, time
from saeserve.worker.orphan import end_with_parent
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
end_with_parent(int(sys.argv[1]), stop.set, 0.3)
print(os.getpid(), flush=True)
if sys.argv[2] == "kind":
    stop.wait(60)
else:
    time.sleep(60); time.sleep(60)
'''
subprocess.Popen(
    [sys.executable, "-c", code, str(os.getpid()), sys.argv[1]], start_new_session=True
)
time.sleep(60)
"""


def ended(child: Child, seconds: float = 10) -> int:
    until(lambda: child.poll(0.05) is not None, seconds)
    code = child.poll(0)
    assert code is not None
    return code


def test_exit_codes_and_signals_are_told() -> None:
    assert ended(Child([sys.executable, "-S", "-c", "raise SystemExit(70)"], 1)) == 70
    child = Child([sys.executable, "-S", "-c", "import time; time.sleep(60)"], 1)
    assert child.poll(0) is None
    assert not child.stopping
    child.stop()
    assert child.stopping
    assert ended(child) == -signal.SIGTERM


def told(variable: str) -> int:
    code = f"import os; raise SystemExit(len(os.environ.get({variable!r}, '')))"
    return ended(Child([sys.executable, "-S", "-c", code], 1))


@pytest.mark.parametrize("variable", sorted(DEFAULTS))
def test_the_environment_suits_jobs_unless_the_operator_set_it(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert told(variable) == len(DEFAULTS[variable]) > 2
    monkeypatch.setenv(variable, "x")
    assert told(variable) == 1
    monkeypatch.setenv("SAESERVE_MORE", "abc")
    assert told("SAESERVE_MORE") == 3


def test_a_kill_is_final_and_repeatable() -> None:
    child = Child([sys.executable, "-S", "-c", "import time; time.sleep(60)"], 60)
    child.kill()
    assert child.poll(0) == -signal.SIGKILL
    child.kill()


@pytest.mark.parametrize("manner", ["kind", "stubborn"])
def test_a_job_process_does_not_outlive_its_worker(manner: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, manner], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: gone(child))


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_job_process_does_not_begin_without_its_worker() -> None:
    code = (
        "from saeserve.worker.orphan import end_with_parent\n"
        "try:\n    end_with_parent(1, print, 1)\n"
        "except ProcessLookupError:\n    raise SystemExit(3)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
