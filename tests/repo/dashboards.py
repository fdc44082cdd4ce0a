"""The Grafana dashboards: `make dashboards` writes deploy/grafana/dashboards/*.json.

Places of panels in the grid of 24 columns follow from their order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.repo.dashboard_panels import DASHBOARDS, Dashboard, Panel

FOLDER = Path(__file__).resolve().parents[2] / "deploy/grafana/dashboards"
COLUMNS, HEIGHT = 24, 8
SOURCE = {"type": "prometheus", "uid": "prometheus"}


def document(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["saeserve"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_variable(dashboard.workers)] if dashboard.workers else []},
        "annotations": {"list": []},
        "panels": _panels(dashboard.panels),
    }


def _panels(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    x = y = tall = 0
    for number, panel in enumerate(panels, 1):
        height = HEIGHT // 2 if panel.kind == "stat" else HEIGHT
        if x + panel.width > COLUMNS:
            x, y, tall = 0, y + tall, 0
        made.append(_panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": height}))
        x, tall = x + panel.width, max(tall, height)
    return made


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    scale = {"type": "log", "log": 10} if panel.log else {"type": "linear"}
    custom = {"scaleDistribution": scale} if panel.kind == "timeseries" else {}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend or "__auto",
                **({"instant": True, "format": "table"} if panel.kind == "table" else {}),
            }
            for at, (query, legend) in enumerate(panel.queries)
        ],
    }


def _variable(metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, instance)"
    return {
        "name": "worker",
        "label": "Worker",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "workers"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": False,
    }


def text_of(dashboard: Dashboard) -> str:
    """The file's content."""
    return json.dumps(document(dashboard), indent=1, ensure_ascii=False) + "\n"


def path_of(dashboard: Dashboard) -> Path:
    """The file."""
    return FOLDER / f"{dashboard.uid.removeprefix('saeserve-')}.json"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for each in DASHBOARDS:
        path_of(each).write_text(text_of(each))
