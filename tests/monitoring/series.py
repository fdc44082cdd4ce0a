"""What Prometheus answers to a panel's queries, named as Grafana names it."""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")
POINTS = 600
"""Most points of a series: about one a pixel of a panel, as Grafana asks for."""


@dataclass(frozen=True)
class Span:
    """A range of time, in seconds since the epoch, and the interval of scraping."""

    start: float
    end: float
    scrape_seconds: float

    @property
    def step(self) -> float:
        """Seconds between two points."""
        return max(self.scrape_seconds, (self.end - self.start) / POINTS)

    @property
    def rate_seconds(self) -> float:
        """Grafana's $__rate_interval."""
        return max(self.step + self.scrape_seconds, 4 * self.scrape_seconds)


@dataclass(frozen=True)
class Series:
    """A line of a panel."""

    name: str
    labels: Mapping[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]


class Prometheus:
    """The HTTP API of a server."""

    def __init__(self, url: str, span: Span) -> None:
        self._url = url.rstrip("/")
        self.span = span

    def instances(self, metric: str) -> list[str]:
        """Values of `instance` that a variable of a dashboard offers."""
        return sorted({each.labels["instance"] for each in self.series(metric, "")})

    def series(self, expression: str, legend: str) -> list[Series]:
        """The lines that a query gives over the span. Raises RuntimeError when it is refused."""
        span = self.span
        query = expression.replace("$__rate_interval", f"{span.rate_seconds:.0f}s")
        given = {"query": query, "start": span.start, "end": span.end, "step": span.step}
        url = f"{self._url}/api/v1/query_range?{urllib.parse.urlencode(given)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{query}: {error.read().decode()}") from error
        return [_series(each, legend, query) for each in found["data"]["result"]]


def _series(result: Mapping[str, Any], legend: str, query: str) -> Series:
    labels: dict[str, str] = result["metric"]
    points = [(float(time), float(value)) for time, value in result["values"]]
    numbers = [(time, value) for time, value in points if not math.isnan(value)]
    times, values = zip(*numbers, strict=True) if numbers else ((), ())
    return Series(_named(legend, labels, query), labels, times, values)


def _named(legend: str, labels: Mapping[str, str], query: str) -> str:
    if legend not in ("", "__auto"):
        return _LABEL.sub(lambda found: labels.get(found[1], ""), legend) or "{}"
    shown = ", ".join(f'{name}="{value}"' for name, value in labels.items() if name != "__name__")
    name = labels.get("__name__", "")
    return f"{name}{{{shown}}}" if name or shown else query
