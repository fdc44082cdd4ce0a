"""`report.html`: the curves and histograms of the demo, one file, nothing fetched."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from saeserve.demo.run import Curve

WIDTH, HEIGHT, PAD = 420, 220, 44
DRAWN = ("loss", "fvu", "l0", "dead")
LOGARITHMIC = frozenset({"loss", "l0"})

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>saeserve demo</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #222 }}
h1, h2 {{ font-weight: 600 }} table {{ border-collapse: collapse }}
td, th {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
td:first-child, th:first-child {{ text-align: left }} mark {{ background: #ffe08a }}
svg {{ background: #fafafa; margin: .3rem }} .context {{ font-family: monospace; margin: .1rem 0 }}
</style></head><body><h1>saeserve demo</h1>{body}</body></html>
"""


def page(sections: Sequence[str]) -> str:
    """The whole document."""
    return _PAGE.format(body="\n".join(sections))


def figures_table(saes: Sequence[Mapping[str, Any]]) -> str:
    """One column an SAE, one row a figure."""
    names = [name for name in saes[0] if name != "architecture"]
    head = "".join(f"<th>{html.escape(str(sae['architecture']))}</th>" for sae in saes)
    rows = "".join(
        f"<tr><td>{name}</td>{''.join(f'<td>{_number(sae[name])}</td>' for sae in saes)}</tr>"
        for name in names
    )
    return f"<h2>Figures on held-out documents</h2><table><tr><th></th>{head}</tr>{rows}</table>"


def sae_section(title: str, curves: Mapping[str, Curve], evaluation: Mapping[str, Any]) -> str:
    """Curves, density histogram and features of one SAE."""
    charts = "".join(line_chart(name, curves[name]) for name in DRAWN if name in curves)
    density = histogram(evaluation["density"])
    features = "".join(_feature(feature) for feature in evaluation["features"])
    return f"<h2>{html.escape(title)}</h2>{charts}{density}{features}"


def line_chart(name: str, curve: Curve) -> str:
    """One metric over steps, as SVG."""
    log = name in LOGARITHMIC and min(curve.values) > 0
    values = [math.log10(value) for value in curve.values] if log else list(curve.values)
    low, high = min(values), max(values)
    span, last = (high - low) or 1.0, max(curve.steps[-1], 1)
    points = " ".join(
        f"{_x(step / last):.1f},{_y((value - low) / span):.1f}"
        for step, value in zip(curve.steps, values, strict=True)
    )
    ends = (_number(10**low if log else low), _number(10**high if log else high))
    shape = f'<polyline fill="none" stroke="#2563eb" stroke-width="1.5" points="{points}"/>'
    return _frame(name + (" (log)" if log else ""), shape, ends, ("0", f"step {last}"))


def histogram(bins: Sequence[Mapping[str, float]]) -> str:
    """Latents by firing frequency, as SVG."""
    if not bins:
        return ""
    top = max(bin["latents"] for bin in bins) or 1
    width = (WIDTH - 2 * PAD) / len(bins)
    bars = "".join(
        f'<rect x="{PAD + i * width:.1f}" y="{_y(bin["latents"] / top):.1f}" '
        f'width="{max(width - 1, 0.5):.1f}" height="{_y(0) - _y(bin["latents"] / top):.1f}" '
        'fill="#0d9488"/>'
        for i, bin in enumerate(bins)
    )
    sides = (f"1e{bins[0]['lower']:.1f}", f"1e{bins[-1]['upper']:.1f}")
    return _frame("latents by firing frequency", bars, ("0", _number(top)), sides)


def _feature(feature: Mapping[str, Any]) -> str:
    lines = "".join(
        f'<p class="context">{context["activation"]:.1f} {html.escape(context["before"])}'
        f"<mark>{html.escape(context['token'])}</mark>{html.escape(context['after'])}</p>"
        for context in feature["contexts"]
    )
    return f"<h3>feature {feature['feature']}, fires on {feature['frequency']:.2%}</h3>{lines}"


def _frame(title: str, shape: str, vertical: tuple[str, str], horizontal: tuple[str, str]) -> str:
    """A titled chart with the ends of its axes written out."""
    text = [
        (WIDTH / 2, 16, "middle", title),
        (PAD - 4, _y(0), "end", vertical[0]),
        (PAD - 4, _y(1) + 8, "end", vertical[1]),
        (PAD, HEIGHT - 8, "start", horizontal[0]),
        (WIDTH - PAD, HEIGHT - 8, "end", horizontal[1]),
    ]
    labels = "".join(
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="11" text-anchor="{anchor}">'
        f"{html.escape(label)}</text>"
        for x, y, anchor, label in text
    )
    axis = f'<path d="M{PAD} {_y(1):.0f} V{_y(0):.0f} H{WIDTH - PAD}" fill="none" stroke="#999"/>'
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{axis}{shape}{labels}</svg>'


def _x(share: float) -> float:
    return PAD + share * (WIDTH - 2 * PAD)


def _y(share: float) -> float:
    return HEIGHT - PAD - share * (HEIGHT - 2 * PAD)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
