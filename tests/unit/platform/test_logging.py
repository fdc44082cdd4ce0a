"""What the log looks like, as text and as JSON."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.certificates import Authority

from saeserve.platform.logging import JsonFormatter, formatter, of_job, of_request

SCRIPT = """
import logging, threading, warnings
from saeserve.platform.logging import configure
configure("INFO", "json")
logging.getLogger("celery.worker").warning("two\\nlines")
logging.getLogger("grpc._cython.cygrpc").error("from grpc")
warnings.warn("old")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise ValueError("at the end")
"""


def fail() -> None:
    raise ValueError("shard 3\nis torn")


def record(message: str = "m", *args: object, error: bool = False) -> logging.LogRecord:
    caught: Any = None
    if error:
        try:
            fail()
        except ValueError:
            caught = sys.exc_info()
    return logging.LogRecord("saeserve.x", logging.ERROR, __file__, 1, message, args, caught)


def line(made: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(made)
    assert "\n" not in text
    return json.loads(text)


def test_an_event_is_one_object_on_one_line() -> None:
    found = line(record("row %d\nof é", 7))
    assert found["message"] == "row 7\nof é"
    assert (found["level"], found["logger"]) == ("ERROR", "saeserve.x")
    assert found["time"].endswith("Z")
    assert len(found["time"]) == len("2026-11-27T09:00:00.000Z")
    assert set(found) == {"time", "level", "logger", "message"}


def test_a_traceback_is_one_field() -> None:
    found = line(record(error=True))
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("shard 3\nis torn")


def test_the_job_is_named_by_all_threads_while_it_runs() -> None:
    seen: list[dict[str, Any]] = []
    with of_job("j-1", 2):
        thread = threading.Thread(target=lambda: seen.append(line(record())))
        thread.start()
        thread.join()
    assert (seen[0]["job"], seen[0]["attempt"]) == ("j-1", 2)
    assert "job" not in line(record())


def test_a_request_is_named_by_its_own_thread_alone() -> None:
    seen: list[dict[str, Any]] = []

    def call() -> None:
        of_request("r-1")
        seen.append(line(record()))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert seen[0]["request"] == "r-1"
    assert "request" not in line(record())


def test_text_stays_as_it_was() -> None:
    assert formatter().format(record()).endswith("Z ERROR saeserve.x: m")


def test_every_line_of_a_process_is_json() -> None:
    """Those of Celery, of grpc and of Python itself as well."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    lines = [json.loads(each) for each in done.stderr.splitlines()]
    assert [each["logger"] for each in lines] == [
        *("celery.worker", "grpc._cython.cygrpc", "py.warnings", "saeserve", "saeserve")
    ]
    assert "ZeroDivisionError" in lines[3]["exception"]
    assert "at the end" in lines[4]["exception"]
    assert done.returncode == 1


@pytest.mark.parametrize("service", ["control", "worker", "inference"])
def test_a_service_that_cannot_start_says_so_in_its_form(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAESERVE_LOG_FORMAT", "json")
    monkeypatch.setenv(f"SAESERVE_{service.upper()}_METRICS_ADDRESS", "0.0.0.0:0")
    monkeypatch.setenv("SAESERVE_STORE", "/proc/no-store")
    monkeypatch.setenv("SAESERVE_WORKER_CLASSES", '["cpu"]')
    done = subprocess.run(
        [sys.executable, "-m", f"saeserve.{service}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    lines = [json.loads(each) for each in done.stderr.splitlines()]
    assert lines[-1]["level"] == "CRITICAL"


NOISE = """
import socket, sys
import grpc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
server = grpc.server(ThreadPoolExecutor(1))
pair = [(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes())]
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
server.start()
with socket.create_connection(("127.0.0.1", port)) as plain:
    plain.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    plain.recv(1)
server.stop(0).wait()
"""


@pytest.mark.parametrize(("verbosity", "silent"), [("NONE", True), ("INFO", False)])
def test_grpcs_own_lines_are_switched_off_by_its_variable(
    verbosity: str, silent: bool, tmp_path: Path
) -> None:
    certificate = Authority(tmp_path).issue()
    done = subprocess.run(
        [sys.executable, "-c", NOISE, str(certificate.key), str(certificate.certificate)],
        env={**os.environ, "GRPC_VERBOSITY": verbosity},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("Handshake failed" not in done.stderr) == silent
