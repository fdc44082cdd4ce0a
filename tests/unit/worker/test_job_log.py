"""What an attempt leaves of its process's log."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from saeserve.worker import job_log
from saeserve.worker.job_log import kept_log

_log = logging.getLogger("saeserve.worker.job")
_CRASH = """
import ctypes, pathlib, sys
from saeserve.worker.job_log import keep_last_words
keep_last_words(pathlib.Path(sys.argv[1]))
ctypes.string_at(0)
"""


def test_records_are_kept_with_their_tracebacks(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with kept_log(path):
        _log.error("it failed", exc_info=ValueError("shard 3"))
    _log.error("after the attempt")
    text = path.read_text()
    assert "ERROR saeserve.worker.job: it failed" in text
    assert "ValueError: shard 3" in text
    assert "after the attempt" not in text


def test_the_latest_lines_are_kept_of_a_log_that_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "MAX_BYTES", 2000)
    with kept_log(tmp_path / "log.txt"):
        for number in range(200):
            _log.error("line %d", number)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["log.txt", "log.txt.1"]
    assert all((tmp_path / name).stat().st_size <= 2000 for name in files)
    assert "line 199" in (tmp_path / "log.txt").read_text()


def test_a_store_that_refuses_the_file_costs_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with kept_log(tmp_path / "missing" / "log.txt"):
        _log.error("still running")
    assert "is not kept" in caplog.text
    assert "still running" in caplog.text


def test_a_crash_in_native_code_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("before\n")
    done = subprocess.run([sys.executable, "-c", _CRASH, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGSEGV
    text = path.read_text()
    assert text.startswith("before\n")
    assert "Segmentation fault" in text
    assert "string_at" in text


_SPEAK = """
import logging, os, pathlib, sys
from saeserve.platform.logging import configure
from saeserve.worker import job_log
path = pathlib.Path(sys.argv[1])
job_log.MAX_BYTES = 2000
job_log.keep_last_words(path)
configure()
with job_log.kept_log(path):
    os.write(2, b"native: before\\n")
    for number in range(100):
        logging.getLogger("saeserve").error("line %d", number)
    os.write(2, b"native: after\\n")
print("python", file=sys.stderr)
"""


def test_what_native_code_says_is_in_the_newest_log_and_pythons_lines_go_on(tmp_path: Path) -> None:
    """Also after the log was rolled over."""
    path = tmp_path / "log.txt"
    ended = subprocess.run(
        [sys.executable, "-c", _SPEAK, str(path)], capture_output=True, text=True, check=True
    )
    assert job_log.last_words(path).endswith("native: after\n")
    assert "native" not in ended.stderr
    assert ended.stderr.count("ERROR saeserve: line") == 100
    assert ended.stderr.endswith("python\n")


def test_of_a_missing_log_there_are_no_last_words(tmp_path: Path) -> None:
    assert job_log.last_words(tmp_path / "log.txt") == ""
