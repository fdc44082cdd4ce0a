"""`python -m tests.monitoring.draw`: each dashboard as a picture, from a Prometheus that runs.

For looking at what an operator would see where no Grafana can be had: every query of every panel is
evaluated over the range, and the panels are drawn at their places, with the titles, units, limits
and legends that Grafana would show. Also prints which alerts fired, and when. See workload.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
from matplotlib import dates
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from tests.monitoring.alerts import Events, clock, fired, table
from tests.monitoring.series import Prometheus, Series, Span
from tests.monitoring.units import written

FOLDER = Path(__file__).resolve().parents[2] / "deploy/grafana/dashboards"
COLUMN, ROW = 0.8, 0.4
"""Inches of a unit of Grafana's grid."""
MOST_NAMED = 12
"""Entries of a legend; Grafana's scrolls."""
Axes = Any
"""matplotlib's, whose keyword arguments have no types."""


class Picture:
    """A dashboard that is being drawn."""

    def __init__(self, document: dict[str, Any], prometheus: Prometheus, events: Events) -> None:
        self._panels: list[dict[str, Any]] = document["panels"]
        self._prometheus = prometheus
        self._events = events
        self._rows = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in self._panels)
        self._figure: Any = Figure(
            figsize=(24 * COLUMN, self._rows * ROW + 0.6), facecolor="#f4f5f5"
        )
        self._figure.suptitle(document["title"], fontsize=15, y=1 - 0.15 / (self._rows * ROW))
        self._worker = self._first_worker(document)

    def save(self, file: Path) -> list[str]:
        """Draw all panels; titles of those without data."""
        empty = [each["title"] for each in self._panels if not self._panel(each)]
        self._figure.savefig(file, dpi=75)
        return empty

    def _first_worker(self, document: dict[str, Any]) -> str:
        variables = document["templating"]["list"]
        if not variables:
            return ""
        metric = variables[0]["query"]["query"].removeprefix("label_values(").partition(",")[0]
        return self._prometheus.instances(metric)[0]

    def _panel(self, panel: dict[str, Any]) -> bool:
        found = [
            line
            for target in panel["targets"]
            for line in self._prometheus.series(
                target["expr"].replace("$worker", self._worker), target["legendFormat"]
            )
            if line.values
        ]
        axes = self._place(panel)
        draw = {"stat": self._stat, "table": self._table, "timeseries": self._lines}
        draw[panel["type"]](axes, panel, found)
        return bool(found)

    def _place(self, panel: dict[str, Any]) -> Axes:
        at, height = panel["gridPos"], self._rows * ROW + 0.6
        left, width = at["x"] / 24, at["w"] / 24
        top, tall = 1 - (0.5 + at["y"] * ROW) / height, at["h"] * ROW / height
        share = {"timeseries": 0.6, "table": 0.8, "stat": 0.62}[panel["type"]]
        place = (left + 0.16 * width, top - tall * (0.12 + share), width * 0.8, tall * share)
        axes = self._figure.add_axes(place)
        info = " (i)" if panel.get("description") else ""
        axes.set_title(panel["title"] + info, fontsize=10, loc="left", x=-0.15)
        return axes

    def _stat(self, axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        axes.axis("off")
        if not found:
            axes.text(0.5, 0.4, defaults.get("noValue", "No data"), ha="center", fontsize=16)
        for number, line in enumerate(found):
            text, colour = _shown(line.values[-1], defaults)
            name = f"{line.name} " if len(found) > 1 else ""
            place = (number + 0.5) / len(found)
            axes.text(place, 0.4, name + text, ha="center", fontsize=16, color=colour)

    def _table(self, axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
        """The rows of the last time at which there were any."""
        axes.axis("off")
        if not found:
            axes.text(0.5, 0.4, "No data", ha="center")
            return
        last = max(line.times[-1] for line in found)
        lines = [line for line in found if line.times[-1] == last]
        left_out: dict[str, bool] = {}
        for step in panel.get("transformations", []):
            left_out |= step["options"]["excludeByName"]
        rows = [{"Time": clock(last), **each.labels, "Value": "1"} for each in lines]
        columns = [name for name in rows[0] if not left_out.get(name)]
        cells = [[row.get(name, "") for name in columns] for row in rows]
        table = axes.table(cells, colLabels=columns, loc="upper left", cellLoc="left")
        table.auto_set_font_size(False)
        table.set_fontsize(8)
        axes.text(1, 0, f"as of {clock(last)}", ha="right", fontsize=7, color="grey")

    def _lines(self, axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        if not found:
            axes.text(0.5, 0.5, "No data", ha="center", transform=axes.transAxes)
        for line in found:
            _draw(axes, line, self._prometheus.span.step)
        for when, _ in self._events:
            axes.axvline(_day(when), color="grey", lw=0.5, ls=":")
        span = self._prometheus.span
        axes.set_xlim(_day(span.start), _day(span.end))
        axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _scale(axes, defaults)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if found:
            place = {"loc": "upper center", "bbox_to_anchor": (0.45, -0.1)}
            lines = axes.get_lines()[: min(len(found), MOST_NAMED)]
            axes.legend(handles=lines, **place, ncols=3, fontsize=7, frameon=False)


def _scale(axes: Axes, defaults: dict[str, Any]) -> None:
    """The vertical axis, its values in the panel's unit."""
    if defaults["custom"]["scaleDistribution"]["type"] == "log":
        axes.set_yscale("log")
    else:
        whole = defaults.get("decimals") == 0
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=whole))
        axes.set_ylim(defaults.get("min"), max(axes.get_ylim()[1], 1 if whole else 1e-9))

    def text(value: float, _position: int) -> str:
        return written(value, defaults["unit"], defaults.get("decimals"))

    axes.yaxis.set_major_formatter(FuncFormatter(text))


def _draw(axes: Axes, line: Series, step: float) -> None:
    """A line with gaps where the series had no points."""
    times: list[float] = []
    values: list[float] = []
    before = line.times[0]
    for at, value in zip(line.times, line.values, strict=True):
        if at - before > 1.5 * step:
            times.append(_day(before + step))
            values.append(math.nan)
        times.append(_day(at))
        values.append(value)
        before = at
    alone = "." if len(values) < 3 else None
    axes.plot(times, values, lw=1.2, label=line.name, marker=alone)


def _shown(value: float, defaults: dict[str, Any]) -> tuple[str, str]:
    """Text and colour of a number; Grafana's own colours are green, and red from 80 on."""
    for mapping in defaults.get("mappings", []):
        if (found := mapping["options"].get(f"{value:g}")) is not None:
            return found["text"], found["color"]
    own = [{"value": None, "color": "green"}, {"value": 80, "color": "red"}]
    steps = defaults.get("thresholds", {}).get("steps", own)
    met = [each["color"] for each in steps if each["value"] is None or value >= each["value"]]
    colour = "black" if met[-1] == "text" else str(met[-1])
    return written(value, defaults["unit"], defaults.get("decimals")), colour


def _day(when: float) -> float:
    return float(cast(Any, dates).date2num(datetime.fromtimestamp(when)))


def draw(prometheus: Prometheus, out: Path, events: Events) -> None:
    """Write a picture of every dashboard to `out`, and print what is empty in it."""
    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(FOLDER.glob("*.json")):
        picture = Picture(json.loads(file.read_text()), prometheus, events)
        empty = picture.save(out / f"{file.stem}.png")
        sys.stdout.write(f"{file.stem}: without data: {', '.join(empty) or 'none'}\n")


def main() -> None:
    """Draw all."""
    options = argparse.ArgumentParser(prog="tests.monitoring.draw", description=__doc__)
    options.add_argument("--prometheus", default="http://127.0.0.1:9090")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--minutes", type=float, default=30, help="how far back")
    options.add_argument("--scrape-seconds", type=float, default=5)
    options.add_argument("--events", type=Path, help="events.json of the workload, drawn as lines")
    given = options.parse_args()
    now = time.time()
    span = Span(now - 60 * given.minutes, now, given.scrape_seconds)
    prometheus = Prometheus(given.prometheus, span)
    events: Events = json.loads(given.events.read_text()) if given.events else []
    draw(prometheus, given.out, events)
    sys.stdout.write(table(fired(prometheus), events) + "\n")


if __name__ == "__main__":
    main()
