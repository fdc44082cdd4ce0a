"""Draws plots as SVG, with matplotlib: axes with units, and n; for light and dark pages alike.

The colours of a file are variables of its style sheet, which follows the browser's colour scheme.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

_matplotlib = cast(Any, mpl)
"""matplotlib, whose types are partial."""
_INK, _GRID = "#010203", "#010204"
_SERIES = ("#010205", "#010206", "#010207", "#010208", "#010209", "#01020a")
"""Stand for variables of the style sheet; no other colour is drawn."""
_LIGHT = ("#24292f", "#d0d7de", "#0969da", "#bc4c00", "#1a7f37", "#8250df", "#a40e26", "#57606a")
_DARK = ("#d1d7e0", "#3d444d", "#58a6ff", "#f0883e", "#56d364", "#d2a8ff", "#ff7b72", "#9198a1")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))
"""Lines differ in these too, for those who do not see the colours."""
_WIDE, _NARROW = (7.2, 3.0), (4.0, 2.7)
"""Inches of 72 px of the page."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_RULES: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "saeserve",
    "font.size": 10,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Line:
    """Points of one series; `label` is "" where there is one series alone."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Bars:
    """Counts between edges, which have one number more."""

    label: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Plot:
    """All that a plot shows; the labels of its axes have the units, and `title` has n."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...] = ()
    bars: tuple[Bars, ...] = ()
    x_log: bool = False
    y_log: bool = False


def drawn(plot: Plot, *, narrow: bool = False) -> bytes:
    """The plot as an SVG file."""
    with _matplotlib.rc_context(_RULES):
        size = _NARROW if narrow else _WIDE
        figure: Any = Figure(figsize=size)
        FigureCanvasSVG(figure)
        axes: Any = figure.add_axes(_room(*size))
        _fill(axes, plot)
        out = io.BytesIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _styled(out.getvalue().decode(), plot.title).encode()


def _room(width: float, height: float) -> tuple[float, float, float, float]:
    """Where the axes lie, in shares: a layout that looks for room draws everything twice."""
    left, bottom, right, top = 0.8, 0.55, 0.2, 0.35
    across, up = width - left - right, height - bottom - top
    return left / width, bottom / height, across / width, up / height


def _decades(low: float, high: float) -> LogLocator:
    """Ticks at powers of ten, and between them where there are few."""
    if high < 10 * low:
        return LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0), numticks=9)
    return LogLocator(subs=(1.0, 2.0, 5.0) if high < 1e3 * low else (1.0,), numticks=9)


def tick(value: float, _place: int = 0) -> str:
    """A number of an axis, short and as plain text: mathematical text is laid out for long."""
    size = abs(value)
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if least <= size < 1e12:
            return f"{value / (1e3 if unit == 'k' else least):,.4g}{unit}"
    if value == 0 or 1e-3 <= size < 1e4:
        return f"{value:,.4g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    digits = digits.rstrip("0").rstrip(".")
    power = "10" + str(int(exponent)).translate(_RAISED)
    return power if digits == "1" else f"{digits}·{power}"


def _fill(axes: Any, plot: Plot) -> None:  # noqa: ANN401 - matplotlib's types are partial
    for number, line in enumerate(plot.lines):
        style = {"color": _SERIES[number % 6], "linestyle": _DASHES[number % 6], "linewidth": 1.6}
        marker = {"marker": "o", "markersize": 3} if len(line.x) < 3 else {}
        axes.plot(line.x, line.y, label=line.label, **style, **marker)
    for number, bars in enumerate(plot.bars):
        style = {"color": _SERIES[number % 6], "linestyle": _DASHES[number % 6]}
        filled = len(plot.bars) == 1
        axes.stairs(bars.counts, bars.edges, label=bars.label, fill=filled, linewidth=1.6, **style)
    axes.set_title(plot.title, fontsize=10, loc="left")
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.set_xscale("log" if plot.x_log else "linear")
    axes.set_yscale("log" if plot.y_log else "linear")
    for axis, log in ((axes.xaxis, plot.x_log), (axes.yaxis, plot.y_log)):
        axis.set_major_locator(_decades(*axis.get_view_interval()) if log else MaxNLocator(5))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(tick))
    axes.grid(visible=True, axis="y", linewidth=0.6)
    if len(plot.lines) + len(plot.bars) > 1:
        axes.legend(frameon=False, fontsize=9)


def _styled(svg: str, title: str) -> str:
    """Put the style sheet in, and a title for those who do not see the plot."""
    names = ["--ink", "--grid", *(f"--s{number}" for number in range(len(_SERIES)))]
    for name, stand_in in zip(names, (_INK, _GRID, *_SERIES), strict=True):
        svg = svg.replace(stand_in, f"var({name})")
    sheet = (
        f"svg{{{_variables(names, _LIGHT)}}}"
        f"@media (prefers-color-scheme:dark){{svg{{{_variables(names, _DARK)}}}}}"
        "text{font-family:system-ui,'DejaVu Sans',sans-serif}"
    )
    head, defs, rest = svg.partition("<defs>")
    words = title.replace("&", "&amp;").replace("<", "&lt;")
    return f"{head}<title>{words}</title><style>{sheet}</style>{defs}{rest}"


def _variables(names: Sequence[str], colours: Sequence[str]) -> str:
    return ";".join(f"{name}:{colour}" for name, colour in zip(names, colours, strict=True))
