"""Draws results/groundtruth.json, and the peers' runs where they are known, as a PNG."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from bench.groundtruth import BASELINE, OURS
from bench.results import FOLDER, Key, Results, Run, estimates
from matplotlib.figure import Figure

FIGURES = {"f1": "F1", "mcc": "MCC"}
COLOURS = {OURS: "tab:blue", BASELINE: "tab:gray"}
PEER_COLOUR = "tab:orange"


def draw(runs: Sequence[Run], title: str) -> Any:  # noqa: ANN401 - matplotlib's types are partial
    """A matplotlib Figure: a panel for each of FIGURES, a bar for each model, with errors."""
    keys = list(estimates(runs, "f1"))
    drawn: Any = Figure(figsize=(10, 1.5 + 0.32 * len(keys)), layout="constrained")
    drawn.suptitle(title)
    panels = drawn.subplots(1, len(FIGURES), sharey=True)
    for panel, figure in zip(panels, FIGURES, strict=True):
        _bars(panel, runs, figure, keys)
    return drawn


def _bars(
    panel: Any,  # noqa: ANN401 - likewise
    runs: Sequence[Run],
    figure: str,
    keys: Sequence[Key],
) -> None:
    found = estimates(runs, figure)
    panel.barh(
        [_label(key) for key in keys],
        [found[key].mean for key in keys],
        xerr=[found[key].error for key in keys],
        color=[COLOURS.get(key[0], PEER_COLOUR) for key in keys],
    )
    panel.set_xlim(0, 1)
    panel.set_xlabel(FIGURES[figure])
    panel.grid(axis="x", alpha=0.3)
    if not panel.yaxis_inverted():
        panel.invert_yaxis()


def _label(key: Key) -> str:
    library, name, variant = key
    what = name if library == OURS else f"{library} {name}"
    return f"{what} ({variant})" if variant else what


def main() -> None:
    """Write results/groundtruth.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, nargs="+", default=None)
    parser.add_argument("--out", type=Path, default=FOLDER / "groundtruth.png")
    asked = parser.parse_args()
    wanted = asked.results or [FOLDER / "groundtruth.json", FOLDER / "groundtruth_peers.json"]
    known = [Results.load(path) for path in wanted if path.exists()]
    if not known:
        parser.error("no results yet: run `make groundtruth` first")
    runs = [run for results in known for run in results.runs]
    seeds = len({run.seed for run in runs})
    mpl.use("agg")
    title = f"Recovery of planted features, means and standard errors of {seeds} seeds"
    draw(runs, title).savefig(asked.out, dpi=120)
    print(f"wrote {asked.out}")


if __name__ == "__main__":
    main()
