"""What a panel of the Grafana dashboards is made of, and the forms of query that many have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

YES_OR_NO = {"0": ("no", "red"), "1": ("yes", "green")}
NEUTRAL = ((None, "text"),)
LONG_WINDOW = "1h"
"""For what happens to jobs, a few times an hour; requests are counted over $__rate_interval."""


@dataclass(frozen=True)
class Panel:
    """A panel: its title, its queries with their legends, and its unit in Grafana's words."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    text: str = ""
    log: bool = False
    decimals: int | None = None
    colours: tuple[tuple[float | None, str], ...] = NEUTRAL
    """Of a stat: colours from a value on. Grafana's own are green, and red from 80 of anything."""
    words: Mapping[str, tuple[str, str]] | None = None
    """Of a stat: texts and colours in place of values."""
    no_value: str = ""
    """What is shown without data; "": Grafana's own words."""


@dataclass(frozen=True)
class Dashboard:
    """A dashboard, and the query of its variable `worker` where it has one."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    workers: str = ""


def one(title: str, query: str, legend: str, unit: str = "short", **more: Any) -> Panel:  # noqa: ANN401 - the other fields of Panel
    """A panel of one query."""
    return Panel(title, ((query, legend),), unit, **more)


def stat(title: str, query: str, unit: str = "short", legend: str = "", **more: Any) -> Panel:  # noqa: ANN401 - the other fields of Panel
    """A panel that shows one number, or one a series."""
    return Panel(title, ((query, legend),), unit, "stat", 4, **more)


def counts(title: str, *queries: tuple[str, str], **more: Any) -> Panel:  # noqa: ANN401 - the other fields of Panel
    """How often things happened; Prometheus extrapolates to parts of one."""
    return Panel(title, queries, decimals=0, **more)


def quantile(metric: str, share: float, by: str = "le", where: str = "", window: str = "") -> str:
    """A quantile of a histogram."""
    rates = f"rate({metric}_bucket{where}[{window or '$__rate_interval'}])"
    return f"histogram_quantile({share}, sum by ({by}) ({rates}))"


def split(query: str, by: str, legend: str, over: str = "{}") -> tuple[tuple[str, str], ...]:
    """The sum of a query's series, and those parts of it, by labels, which are not 0: a legend of
    twenty that are would hide them."""
    return (
        (f"sum({over.format(query)}) or vector(0)", "all"),
        (f"sum by ({by}) ({over.format(query)}) > 0", legend),
    )


def happened(series: str, by: str, legend: str) -> tuple[tuple[str, str], ...]:
    """How often in the last hour, by a label whose values come with their first event.

    `increase` does not see the first value of a series. So of one that is younger than the window
    its highest value is taken where that is more: it is less once its process began anew.
    """
    grown = f"increase({series}[{LONG_WINDOW}])"
    young = f"(max_over_time({series}[{LONG_WINDOW}]) unless {series} offset {LONG_WINDOW})"
    return split(f"({young} > {grown} or {grown} or {young})", by, legend)
