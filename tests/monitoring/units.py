"""Numbers as Grafana's units write them, as far as the dashboards use them."""

from __future__ import annotations

import math

_SECONDS = ((86400.0, "day"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_SHORT = ((1e9, "Bil"), (1e6, "Mil"), (1e3, "K"))


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """`value` with its unit."""
    if not math.isfinite(value):
        return str(value)
    match unit:
        case "s":
            return _scaled(value, _SECONDS, " ", decimals)
        case "bytes":
            return _scaled(value, _BYTES, " ", decimals)
        case "percentunit":
            return f"{_number(100 * value, decimals)}%"
        case "reqps":
            return f"{_number(value, decimals)} req/s"
        case "celsius":
            return f"{_number(value, decimals)} °C"
        case _:
            return _scaled(value, _SHORT, " ", decimals)


def _scaled(
    value: float, scales: tuple[tuple[float, str], ...], gap: str, decimals: int | None
) -> str:
    for size, word in scales:
        if abs(value) >= size:
            return f"{_number(value / size, decimals)}{gap}{word}"
    return _number(value, decimals)


def _number(value: float, decimals: int | None) -> str:
    return f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}"
