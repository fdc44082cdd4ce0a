"""A job process that plays a part: `python job_child.py PART ATTEMPT_FOLDER EPOCH`.

Standard library only, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

FOLDER, EPOCH = Path(sys.argv[2]), int(sys.argv[3])
JOB = FOLDER.parent.parent
FINISHED, FAILED, STOPPED, FENCED, UNFIT, DISK_FULL = 0, 70, 75, 76, 77, 78
FOREVER_S = 60


def finish() -> int:
    """Commit a result."""
    result = {
        "job": JOB.name,
        "epoch": EPOCH,
        "state": "SUCCEEDED",
        "outputs": [{"model": "models/m/versions/1", "metrics": {"fvu": 0.5}}],
        "steps": 7,
        "time": time.time(),
    }
    (JOB / "result.json").write_text(json.dumps(result))
    return FINISHED


def fail(retryable: bool) -> int:
    """Leave word of a failure."""
    failure = {"code": "BAD_DATA", "message": "row 3 is NaN", "retryable": retryable, "step": 3}
    (FOLDER / "error.json").write_text(json.dumps(failure))
    return FAILED


def report(step: int, op: int) -> None:
    """One metrics event."""
    event = {
        "epoch": EPOCH,
        "op": op,
        "time": time.time(),
        "step": step,
        "type": "metrics",
        "data": {"metrics": {"loss": 1.0}, "unit": "steps", "total_steps": 10},
    }
    with open(FOLDER / "events.jsonl", "a") as file:
        file.write(json.dumps(event) + "\n")


def wait(until: Path | None = None) -> int:
    """Run until asked to stop, or until `until` exists; then finish."""
    stopped: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    signal.signal(signal.SIGTERM, on_signal)
    (FOLDER / "running").touch()
    deadline = time.monotonic() + FOREVER_S
    while not stopped and time.monotonic() < deadline:
        if until is not None and until.exists():
            return finish()
        time.sleep(0.01)
    return STOPPED


def stubborn() -> int:
    """Ignore the wish to stop, and have a child of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER_S})"])
    (FOLDER / "grandchild").write_text(str(grandchild.pid))
    (FOLDER / "running").touch()
    time.sleep(FOREVER_S)
    return FINISHED


def stand_still() -> int:
    """Report, then stop as a process does that is suspended."""
    report(1, 0)
    report(2, 1)
    os.kill(os.getpid(), signal.SIGSTOP)
    return FINISHED


def half_written() -> int:
    """Stop for good in the middle of a checkpoint."""
    folder = FOLDER / "checkpoints" / "50"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"whole")
    (folder / ".manifest.json.5f0c.tmp").write_bytes(b"half")
    return stand_still()


def slow() -> int:
    """Report nothing for long, but give signs of life."""
    report(1, 0)
    for _ in range(20):
        time.sleep(0.1)
        os.utime(FOLDER / "events.jsonl")
    return finish()


def crash() -> int:
    """Die as a segmentation fault does."""
    report(4, 0)
    os.kill(os.getpid(), signal.SIGSEGV)
    return FINISHED


PARTS = {
    "finish": finish,
    "fail": lambda: fail(retryable=False),
    "fail-retryable": lambda: fail(retryable=True),
    "wait": wait,
    "wait-for-go": lambda: wait(JOB / "go"),
    "stubborn": stubborn,
    "crash": crash,
    "stand-still": stand_still,
    "half-written": half_written,
    "slow": slow,
    "fenced": lambda: FENCED,
    "unfit": lambda: UNFIT,
    "full": lambda: DISK_FULL,
    "stopped": lambda: STOPPED,
    "report": lambda: (report(1, 0), report(2, 1), finish())[2],
    "mute": lambda: FINISHED,
}

if __name__ == "__main__":
    sys.exit(PARTS[sys.argv[1]]())
