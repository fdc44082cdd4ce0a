"""The embedded broker, for real."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from saeserve.errors import StartupError, Unavailable
from saeserve.platform.broker import Broker
from saeserve.platform.broker_server import BrokerRunningError
from saeserve.platform.redis import answers, check, connect


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Short names: a unix socket's path has little room.
    return tmp_path_factory.mktemp("b")


def value(url: str, key: str) -> str | None:
    with connect(url) as client:
        return cast(Any, client).get(key)


def put(url: str, key: str, text: str) -> None:
    with connect(url) as client:
        cast(Any, client).set(key, text)


def config(url: str, name: str) -> str:
    with connect(url) as client:
        return cast(Any, client).config_get(name)[name]


def test_answers_and_never_evicts_or_listens_on_tcp(run: Path) -> None:
    with Broker(run) as broker:
        put(broker.url, "a", "ü")
        assert value(broker.url, "a") == "ü"
        assert config(broker.url, "maxmemory-policy") == "noeviction"
        assert config(broker.url, "appendfsync") == "everysec"
        assert config(broker.url, "port") == "0"
        assert oct(broker.socket.stat().st_mode & 0o777) == "0o700"
    assert not answers(broker.url)


def test_data_outlive_a_stop_and_a_kill(run: Path) -> None:
    with Broker(run) as broker:
        put(broker.url, "stopped", "1")
    with Broker(run) as broker:
        put(broker.url, "killed", "2")
        os.kill(broker.pid, signal.SIGKILL)
        assert broker.wait(60) == -signal.SIGKILL
    with Broker(run) as broker:
        assert (value(broker.url, "stopped"), value(broker.url, "killed")) == ("1", "2")


def test_a_second_launch_names_the_first(run: Path) -> None:
    with Broker(run) as broker:
        with pytest.raises(BrokerRunningError, match=str(broker.pid)) as caught:
            Broker(run).start()
        assert str(broker.folder) in caught.value.message
        assert answers(broker.url)


def test_a_port_opens_on_loopback_and_a_taken_one_is_told(run: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.listen()
        with pytest.raises(StartupError, match="in use"):
            Broker(run, port=port).start()
    with Broker(run, port=port):
        assert answers(f"redis://127.0.0.1:{port}/0")


def test_a_server_that_does_not_answer_is_stopped(run: Path) -> None:
    silent = run / "silent"
    silent.write_text("#!/bin/sh\necho starting slowly\nexec sleep 100\n")
    silent.chmod(0o755)
    broker = Broker(run, server=str(silent))
    with pytest.raises(StartupError, match=r"did not answer within 0\.5 s") as caught:
        broker.start(timeout_s=0.5)
    assert "starting slowly" in caught.value.message
    with pytest.raises(RuntimeError):
        _ = broker.pid


def test_a_program_that_is_not_there(run: Path) -> None:
    with pytest.raises(StartupError, match="no program 'no-such-server'"):
        Broker(run, server="no-such-server").start()


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="longer than 103 bytes") as caught:
        Broker(tmp_path / ("x" * 100)).start()
    assert "SAESERVE_RUN" in caught.value.remedy


def test_redis_out_of_reach_is_unavailable(tmp_path: Path) -> None:
    with connect(f"unix://{tmp_path}/none.sock") as client, pytest.raises(Unavailable):
        check(client)
    with pytest.raises(StartupError, match="not the URL of a Redis server"):
        connect("http://localhost")


def foreground(run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "saeserve.platform.broker"],
        env=os.environ | {"SAESERVE_RUN": str(run), "SAESERVE_BROKER_PORT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )


def ready_pid(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    line = process.stderr.readline()
    assert " ready " in line, line
    return int(line.split("pid=")[1].split()[0])


def until_free(run: Path) -> None:
    for _ in range(500):
        try:
            with Broker(run):
                return
        except BrokerRunningError:
            time.sleep(0.02)
    pytest.fail("the broker outlived its launcher")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_foreground_process_ends_on_a_signal(run: Path, number: signal.Signals) -> None:
    with foreground(run) as process:
        ready_pid(process)
        process.send_signal(number)
        assert process.wait(120) == 0
    with Broker(run) as broker:
        assert answers(broker.url)


def test_the_server_dies_with_a_killed_launcher(run: Path) -> None:
    with foreground(run) as process:
        ready_pid(process)
        process.kill()
    until_free(run)


def test_the_foreground_process_tells_when_its_server_dies(run: Path) -> None:
    with foreground(run) as process:
        os.kill(ready_pid(process), signal.SIGKILL)
        assert process.wait(120) == 2
        assert process.stderr is not None
        assert "ended with status -9" in process.stderr.read()


def test_a_second_foreground_process_exits_with_one_line(run: Path) -> None:
    with Broker(run) as broker, foreground(run) as process:
        assert process.wait(120) == 2
        assert process.stderr is not None
        text = process.stderr.read()
        assert f"process id {broker.pid} already uses" in text
        assert text.count("\n") == 1
