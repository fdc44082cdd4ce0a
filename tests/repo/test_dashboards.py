"""Dashboards: each is one that Grafana reads, of metrics that exist, by queries that parse."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import yaml
from tests.repo.dashboard_panels import DASHBOARDS
from tests.repo.dashboards import COLUMNS, FOLDER, path_of, text_of
from tests.repo.expressions import names_in, unknown_labels
from tests.repo.metrics_page import exposed_names
from tests.repo.panels import Dashboard

GRAFANA = FOLDER.parent
SCHEMA = json.loads((GRAFANA / "dashboard.schema.json").read_text())
OF_THE_CLIENT = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
FILES = sorted(FOLDER.glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(path.read_text()))


def expressions(path: Path) -> list[str]:
    """The queries of a dashboard, with values for its variables."""
    return [
        target["expr"].replace("$worker", "worker:9471").replace("$__rate_interval", "5m")
        for panel in load(path)["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_files_are_those_of_the_code(dashboard: Dashboard) -> None:
    assert path_of(dashboard).read_text() == text_of(dashboard), "run `make dashboards`"


def test_no_file_is_left_over() -> None:
    assert sorted(path_of(each) for each in DASHBOARDS) == FILES
    assert len({load(path)["uid"] for path in FILES}) == len(FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_follows_the_schema(path: Path) -> None:
    jsonschema.validate(load(path), SCHEMA)


def test_the_schema_refuses_what_grafana_would_not_show() -> None:
    broken = load(FILES[0])
    del broken["panels"][0]["targets"][0]["expr"]
    with pytest.raises(jsonschema.ValidationError, match="expr"):
        jsonschema.validate(broken, SCHEMA)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_panels_do_not_overlap(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in load(path)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_metric_of_a_panel_exists(path: Path) -> None:
    for expression in expressions(path):
        assert names_in(expression) <= exposed_names(), expression
        assert names_in(expression) or any(name in expression for name in OF_THE_CLIENT)
        assert unknown_labels(expression) == set(), expression


def test_every_metric_is_on_a_dashboard_or_in_an_alert() -> None:
    shown = {name for path in FILES for each in expressions(path) for name in names_in(each)}
    rules = (GRAFANA.parent / "prometheus/rules.yml").read_text()
    unseen = {name for name in exposed_names() - shown if name not in rules}
    # Of histograms one of three series is enough; these say what a worker is and how many models.
    left = {name for name in unseen if not name.endswith(("_bucket", "_sum", "_count"))}
    assert left <= {
        "saeserve_worker_info",
        "saeserve_models_resident",
        "saeserve_attempt_failures_total",
    }


def test_every_line_has_a_legend_and_every_number_its_colours() -> None:
    panels = [panel for path in FILES for panel in load(path)["panels"]]
    for panel in panels:
        named = [each["legendFormat"] != "__auto" for each in panel["targets"]]
        assert panel["type"] != "timeseries" or all(named), panel["title"]
        if panel["type"] == "stat":
            # Grafana's own would be red from 80 on, whatever is counted.
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH")
def test_every_query_parses(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(each for path in FILES for each in expressions(path))
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    command = ["promtool", "check", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_is_provisioned_with_prometheus_and_the_dashboards() -> None:
    provisioning = GRAFANA / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert {load(path)["panels"][0]["datasource"]["uid"] for path in FILES} == {source["uid"]}
    compose = yaml.safe_load((GRAFANA.parents[1] / "docker-compose.yml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    # $__rate_interval is at least four of these.
    scraped = yaml.safe_load((GRAFANA.parent / "prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraped["scrape_interval"]
    assert "prometheus" in compose
    [provider] = yaml.safe_load((provisioning / "dashboards/saeserve.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert compose["grafana"]["profiles"] == ["grafana"]
