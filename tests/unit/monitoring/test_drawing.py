"""The tool that draws the dashboards, before a Prometheus that answers every query alike."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.monitoring.alerts import DISTURBANCES, EXPECTED, table, wrong
from tests.monitoring.draw import FOLDER, draw
from tests.monitoring.series import Prometheus, Series, Span
from tests.monitoring.units import written
from tests.monitoring.workload import lacking, until

SPAN = Span(1000.0, 1300.0, 5.0)


class Answers(BaseHTTPRequestHandler):
    """A line of three points, a gap and a value that is none."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(parse_qs(urlsplit(self.path).query)["query"][0])
        points = [[1000, "1"], [1005, "2.5"], [1100, "NaN"], [1200, "90"]]
        labels = {"__name__": "x", "instance": "w:1", "model": "sae"}
        body = json.dumps({"data": {"result": [{"metric": labels, "values": points}]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Prometheus(f"http://127.0.0.1:{server.server_port}", SPAN)
        server.shutdown()


def test_every_dashboard_becomes_a_picture(prometheus: Prometheus, tmp_path: Path) -> None:
    draw(prometheus, tmp_path, [(1100.0, "something")])
    names = {path.stem for path in FOLDER.glob("*.json")}
    assert {path.stem for path in tmp_path.glob("*.png")} == names
    assert all(path.stat().st_size > 10_000 for path in tmp_path.iterdir())
    assert not [query for query in Answers.asked if "$" in query]


def test_lines_are_named_and_their_gaps_kept(prometheus: Prometheus) -> None:
    [line] = prometheus.series("x", "{{model}} at {{instance}}")
    assert line.name == "sae at w:1"
    assert line.values == (1.0, 2.5, 90.0)
    [unnamed] = prometheus.series("x", "__auto")
    assert unnamed.name == 'x{instance="w:1", model="sae"}'


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "short", "0"),
        (24_600.0, "short", "24.6 K"),
        (0.35, "percentunit", "35%"),
        (0.25, "s", "250 ms"),
        (432_000.0, "s", "5 day"),
        (3 * 2.0**30, "bytes", "3 GiB"),
        (1.25, "reqps", "1.25 req/s"),
    ],
)
def test_units(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text


def test_alerts_are_judged_by_the_events() -> None:
    events = [(1000.0, "begin"), (1200.0, DISTURBANCES)]

    def alert(name: str, when: float) -> Series:
        return Series(name, {"alertname": name}, (when,), (1.0,))

    right = [alert(name, 1250.0) for name in EXPECTED]
    assert wrong(right, events) == []
    assert wrong(right[1:], events) == [f"{right[0].name} did not fire"]
    early = [*right, alert("QueueTooOld", 1100.0)]
    assert wrong(early, events) == ["QueueTooOld fired while nothing was disturbed"]
    assert wrong([*right, alert("GpuHot", 1250.0)], events) == ["GpuHot fired without a cause"]
    assert "GpuHot" in table([alert("GpuHot", 1250.0)], events)


def test_the_workload_names_what_has_to_be_there_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install prometheus" in lacking(tmp_path)
    (tmp_path / "prometheus").touch(mode=0o755)
    assert "make demo" in lacking(tmp_path)
    (tmp_path / "store").mkdir()
    assert lacking(tmp_path) == ""


def test_waiting_for_what_does_not_come_ends() -> None:
    with pytest.raises(TimeoutError, match=r"the store: not within 0 s"):
        until(lambda: False, 0.0, "the store")
