"""Alert rules: each speaks of metrics that exist, is explained, and is tried."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from tests.repo.expressions import names_in, unknown_labels
from tests.repo.metrics_page import exposed_names

Tree = dict[str, Any]
FOLDER = Path(__file__).parents[2] / "deploy/prometheus"


def load(name: str) -> Tree:
    return cast(Tree, yaml.safe_load((FOLDER / name).read_text()))


RULES: list[Tree] = [rule for group in load("rules.yml")["groups"] for rule in group["rules"]]
ALERTS: dict[str, Tree] = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED: set[str] = {rule["record"] for rule in RULES if "record" in rule}
RUNBOOK: dict[str, str] = dict(
    re.findall(r"^## (\w+)\n(.+?)(?=\n## |\Z)", (FOLDER / "RUNBOOK.md").read_text(), re.M | re.S)
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_of_a_rule_exists(rule: Tree) -> None:
    names = names_in(rule["expr"])
    assert names
    assert names - RECORDED - {"up"} <= exposed_names()
    assert unknown_labels(rule["expr"]) == set()


def test_a_metric_that_is_not_there_is_noticed() -> None:
    assert not names_in('sum(saeserve_nothing{a="b"}) > 1') <= exposed_names()
    assert unknown_labels('saeserve_jobs{state="QUEUED", host="x"}') == {"host"}


def test_recorded_series_are_used() -> None:
    used = {name for rule in ALERTS.values() for name in names_in(rule["expr"])}
    assert used >= RECORDED


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"] == f"deploy/prometheus/RUNBOOK.md#{alert.lower()}"
    assert len(RUNBOOK[alert].split()) > 15


def test_the_runbook_has_no_alert_that_is_gone() -> None:
    assert set(RUNBOOK) == set(ALERTS)


def test_every_alert_is_tried() -> None:
    tried = {
        name
        for test in load("rules_test.yml")["tests"]
        for each in test["promql_expr_test"]
        for sample in each["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert tried == set(ALERTS)


@pytest.mark.parametrize("name", ["prometheus.yml", "local.yml"])
def test_prometheus_reads_the_rules(name: str) -> None:
    assert load(name)["rule_files"] == ["rules.yml"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH")
def test_the_rules_fire_when_they_should_alone() -> None:
    command = ["promtool", "test", "rules", str(FOLDER / "rules_test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
