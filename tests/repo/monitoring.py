"""`make monitoring`: the alert rules and dashboards once more, as what Kubernetes' operators read.

kustomize reads no files from beside its own folder, so that they stand there a second time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules.yml"
DASHBOARDS = ROOT / "deploy/grafana/dashboards"
FOLDER = ROOT / "deploy/kubernetes/components/monitoring"
MADE = "# Made by `make monitoring` from {}; edit that.\n"


def rules() -> str:
    """A PrometheusRule of the alert rules."""
    groups = cast(dict[str, Any], yaml.safe_load(RULES.read_text()))["groups"]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "saeserve"},
        "spec": {"groups": groups},
    }
    return MADE.format("deploy/prometheus/rules.yml") + _text(resource)


def dashboards() -> str:
    """A ConfigMap of the dashboards, as Grafana's sidecar looks for them."""
    resource = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "saeserve-dashboards", "labels": {"grafana_dashboard": "1"}},
        "data": {path.name: path.read_text() for path in sorted(DASHBOARDS.glob("*.json"))},
    }
    return MADE.format("deploy/grafana/dashboards") + _text(resource)


def files() -> dict[Path, str]:
    """What stands in which file."""
    return {FOLDER / "rules.yaml": rules(), FOLDER / "dashboards.yaml": dashboards()}


def _text(resource: dict[str, Any]) -> str:
    return yaml.safe_dump(resource, sort_keys=False, width=110, allow_unicode=True)


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
