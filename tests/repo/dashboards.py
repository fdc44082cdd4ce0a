"""The Grafana dashboards: `make dashboards` writes deploy/grafana/dashboards/*.json.

Places of panels in the grid of 24 columns follow from their order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.repo.dashboard_panels import DASHBOARDS
from tests.repo.panels import Dashboard, Panel

FOLDER = Path(__file__).resolve().parents[2] / "deploy/grafana/dashboards"
COLUMNS, HEIGHT = 24, 8
SOURCE = {"type": "prometheus", "uid": "prometheus"}
HIDE = {
    "id": "organize",
    "options": {"excludeByName": dict.fromkeys(("Time", "Value", "__name__", "job"), True)},
}
"""Columns of a table that say nothing."""


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
    table = {"instant": True, "format": "table"} if panel.kind == "table" else {}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        **({"transformations": [HIDE]} if table else {}),
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend or "__auto",
                **table,
            }
            for at, (query, legend) in enumerate(panel.queries)
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    """How values look."""
    found: dict[str, Any] = {"unit": panel.unit, "custom": {}}
    if panel.decimals is not None:
        found["decimals"] = panel.decimals
    if panel.no_value:
        found["noValue"] = panel.no_value
    if panel.kind == "timeseries":
        scale = {"type": "log", "log": 10} if panel.log else {"type": "linear"}
        found["custom"] = {"scaleDistribution": scale}
        found |= {} if panel.log else {"min": 0}
    if panel.kind == "stat":
        steps = [{"value": at, "color": colour} for at, colour in panel.colours]
        found["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel.words is not None:
        options = {
            at: {"text": text, "color": colour} for at, (text, colour) in panel.words.items()
        }
        found["mappings"] = [{"type": "value", "options": options}]
    return found


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
