"""Plots of the page: speeds by architecture, and how TopK scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from bench.training.contestant import LIMIT, NAMES, OURS
from bench.training.figures import tokens_per_second
from bench.training.limits import limit_seconds
from bench.training.parts import SETTLING_TURNS
from bench.training.race import Result
from matplotlib.figure import Figure

Races = Mapping[str, Sequence[Result]]
SHOWN = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "jumprelu_sparse": "JumpReLU, L0 ≈ 64",
    "jumprelu": "JumpReLU, from the start",
}
COLOURS = {
    "saeserve": "tab:blue",
    "saelens": "tab:orange",
    "dictionary_learning": "tab:green",
    "sparsify": "tab:red",
    LIMIT: "tab:gray",
}
SCALES = {"width": "d_sae", "batch": "rows a step"}


def save(races: Races, d_in: int, folder: Path) -> list[str]:
    """Write the plots that there are results for; their file names."""
    mpl.use("agg")
    drawn: dict[str, Any] = {}
    if any(name in races for name in SHOWN):
        drawn["training_speed.png"] = speeds(races)
    if any(name.partition("_")[0] in SCALES for name in races):
        drawn["training_scaling.png"] = scaling(races, d_in)
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=120)
    return list(drawn)


def speeds(races: Races) -> Any:  # noqa: ANN401 - matplotlib's types are partial
    """A panel for each architecture, a bar for each contestant."""
    names = [name for name in SHOWN if name in races]
    drawn: Any = Figure(figsize=(10, 2.2 * len(names)), layout="constrained")
    drawn.suptitle("Training, tokens a second")
    panels = drawn.subplots(len(names), 1, squeeze=False)[:, 0]
    for panel, name in zip(panels, names, strict=True):
        results = [r for r in races[name] if r.contestant.system != LIMIT]
        panel.barh(
            [label(result) for result in results],
            [tokens_per_second(result) for result in results],
            color=[COLOURS[result.contestant.system] for result in results],
        )
        panel.set_title(SHOWN[name], loc="left", fontsize=10)
        panel.grid(axis="x", alpha=0.3)
        panel.invert_yaxis()
    return drawn


def label(result: Result) -> str:
    """System and type of the encoder GEMM."""
    who = result.contestant
    return f"{NAMES[who.system]} {'bf16' if who.dtype == 'bfloat16' else 'fp32'}"


def scaling(races: Races, d_in: int) -> Any:  # noqa: ANN401 - likewise
    """TopK's speed by width and by batch, with the limit of a bfloat16 GEMM."""
    drawn: Any = Figure(figsize=(10, 4), layout="constrained")
    panels = drawn.subplots(1, len(SCALES))
    for panel, (kind, title) in zip(panels, SCALES.items(), strict=True):
        for name, points in curves(races, kind, d_in).items():
            xs, ys = zip(*sorted(points), strict=True)
            style = "--" if name.startswith("limit") else "-"
            panel.plot(xs, ys, style, marker="o", label=name, color=_colour(name))
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xlabel(title)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("tokens a second")
    panels[0].legend(fontsize=8)
    return drawn


def curves(races: Races, kind: str, d_in: int) -> dict[str, list[tuple[float, float]]]:
    """(width or batch, tokens a second) of each contestant, the main race's among them."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, results in races.items():
        if name != "topk" and not name.startswith(f"{kind}_"):
            continue
        for result in results:
            who = result.contestant
            x = who.d_sae if kind == "width" else who.batch
            if who.system == LIMIT:
                found.setdefault("limit, bf16", []).append((x, _limit(result, d_in)))
            elif who.system in (OURS, "saelens", "sparsify"):
                found.setdefault(label(result), []).append((x, tokens_per_second(result)))
    return found


def _limit(result: Result, d_in: int) -> float:
    """Tokens a second of the limit's median round."""
    who, turns = result.contestant, result.turns[SETTLING_TURNS:]
    seconds = sorted(
        limit_seconds(d_in, who.d_sae, turn["gemm_bfloat16"], turn["bytes_per_second"])
        for turn in turns
    )
    return who.batch / seconds[len(seconds) // 2]


def _colour(name: str) -> str:
    for system, shown in NAMES.items():
        if name.startswith(shown):
            return COLOURS[system]
    return COLOURS[LIMIT]
