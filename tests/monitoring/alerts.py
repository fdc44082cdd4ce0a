"""Which alerts fired over a span, and whether these are the ones that the events explain."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.monitoring.series import Prometheus, Series

DISTURBANCES = "disturbances"
"""The event from which on alerts may fire."""
EXPECTED = {"WorkerLost", "NoWorkerForQueuedJobs", "TargetDown"}
"""Of a worker that was killed, of a job that no worker takes, of an inference that stands still."""
Events = Sequence[tuple[float, str]]


def fired(prometheus: Prometheus) -> list[Series]:
    """Every alert that fired, in the order of their beginnings."""
    found = prometheus.series('ALERTS{alertstate="firing"}', "{{alertname}}")
    return sorted(found, key=lambda alert: alert.times[0])


def table(alerts: Sequence[Series], events: Events) -> str:
    """Alerts among the events, a line each."""
    lines = [(when, f"-- {what}") for when, what in events]
    for alert in alerts:
        labels = {k: v for k, v in alert.labels.items() if k not in ("__name__", "alertstate")}
        lines.append((alert.times[0], f"ALERT until {clock(alert.times[-1])} {labels}"))
    return "\n".join(f"{clock(when)} {what}" for when, what in sorted(lines))


def wrong(alerts: Sequence[Series], events: Events) -> list[str]:
    """What is not as it should be."""
    begin = next(when for when, what in events if what == DISTURBANCES)
    early = {alert.name for alert in alerts if alert.times[0] < begin}
    names = {alert.name for alert in alerts}
    return [
        *(f"{name} fired while nothing was disturbed" for name in sorted(early)),
        *(f"{name} did not fire" for name in sorted(EXPECTED - names)),
        *(f"{name} fired without a cause" for name in sorted(names - EXPECTED - early)),
    ]


def clock(when: float) -> str:
    """The time of day."""
    return time.strftime("%H:%M:%S", time.localtime(when))
