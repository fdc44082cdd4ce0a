"""How values stand on pages."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

NONE = "–"
_SHOWN_AS = str.maketrans({" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥", "\xa0": "⍽"})
_HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Co", "Cn", "Cs")
"""Categories of characters that have no shape, or that turn the text around them."""


def number(value: float | None) -> str:
    """Four significant digits, thousands parted; whole numbers whole."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def exact(value: float) -> str:
    """A number that reads as the same again, whole ones without a point."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def share(value: float | None) -> str:
    """A share of one, as per cent; small ones as a power of ten."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    return f"{value:.2%}" if value >= 1e-4 else f"{value:.1e}"


def when(value: datetime | None) -> str:
    """A time in UTC, to the second."""
    return NONE if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def size(value: float) -> str:
    """Bytes in the largest unit that leaves a whole number."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def seconds(value: float | None) -> str:
    """A duration in two units at most."""
    if value is None:
        return NONE
    if value < 60:
        return f"{value:.1f} s"
    minutes, left = divmod(round(value), 60)
    return f"{minutes} min {left} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def pretty(value: object) -> str:
    """A value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def segment(value: object) -> str:
    """A name as one segment of a path."""
    return quote(str(value), safe="@")


def reference(resource: str) -> str:
    """name@version of models/<name>/versions/<n>; what has another form stays as it is."""
    parts = resource.split("/")
    named = len(parts) == 4 and parts[0] == "models" and parts[2] == "versions"
    return f"{parts[1]}@{parts[3]}" if named else resource


def visible(text: str) -> str:
    """A token with its white space and its shapeless characters made visible."""
    shown = text.translate(_SHOWN_AS)
    # Nearly all text is printable, and a page shows thousands of tokens.
    return shown if shown.isprintable() else "".join(map(_shape, shown))


def readable(text: str) -> str:
    """Running text: single spaces stay what they are, all else is made visible."""
    return visible(text).replace("␣", " ").replace("  ", "␣␣")


def written(text: str) -> str:
    """Text as it is laid out, spaces and lines included; characters without a shape made
    visible."""
    return "".join(each if each in " \n" else visible(each) for each in text)


def _shape(character: str) -> str:
    if unicodedata.category(character) in _HIDDEN:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def queried(values: Mapping[str, object], **changes: object) -> str:
    """A query string of `values` with `changes`, what is empty left out."""
    merged = {**values, **changes}
    kept = {name: each for name, each in merged.items() if each not in ("", None, False)}
    parts = (f"{name}={quote(_plain(each), safe='')}" for name, each in kept.items())
    return "?" + "&".join(parts) if kept else ""


def _plain(value: object) -> str:
    if value is True:
        return "true"
    return f"{value:g}" if isinstance(value, float) else str(value)


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number,
    "share": share,
    "when": when,
    "size": size,
    "seconds": seconds,
    "pretty": pretty,
    "segment": segment,
    "visible": visible,
    "readable": readable,
    "written": written,
    "queried": queried,
    "reference": reference,
}
