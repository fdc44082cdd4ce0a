"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

_UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "k"))


def size(count: float) -> str:
    """Bytes, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable: TiB returns")


def ago(moment: datetime | None) -> str:
    """How long since `moment`."""
    if moment is None:
        return ""
    return duration((datetime.now(UTC) - moment).total_seconds()) + " ago"


def duration(seconds: float) -> str:
    """Seconds, in the two largest units that matter."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


def count(value: object) -> str:
    """A count of a spec, exactly: 200k, 2M, 4,096."""
    if not isinstance(value, int | float) or value != int(value):
        return str(value)
    for scale, unit in _UNITS:
        if value and value % scale == 0:
            return f"{int(value) // scale}{unit}"
    return f"{int(value):,}"


def figure(value: float) -> str:
    """Four significant digits, large ones written out: 85,250 and not 8.525e+04."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def metrics_text(metrics: Mapping[str, float], room: int | None = None) -> str:
    """name=value pairs; only as many as fit whole into `room` columns."""
    told = ""
    for name, value in sorted(metrics.items()) if room is None else metrics.items():
        longer = f"{told} {name}={figure(value)}".lstrip()
        if room is not None and len(longer) > room:
            break
        told = longer
    return told


def listed(names: Iterable[object]) -> str:
    """Names with commas between."""
    return ", ".join(str(name) for name in names)
