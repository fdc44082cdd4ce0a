"""The drawing of results."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.plot import draw
from bench.results import Run


def figure_runs(library: str, name: str, variant: str, f1: float) -> list[Run]:
    figures = {"f1": f1, "mcc": 0.5}
    return [Run(library, name, variant, seed, figures, 1.0) for seed in (0, 1)]


def test_a_bar_for_every_model(tmp_path: Path) -> None:
    runs = [
        *figure_runs("saeserve", "topk", "", 0.7),
        *figure_runs("random decoder", "topk", "", 0.1),
        *figure_runs("SAELens", "topk", "default", 0.6),
    ]
    drawn = draw(runs, "title")
    f1, mcc = drawn.axes
    names = [label.get_text() for label in f1.get_yticklabels()]
    assert names == ["topk", "random decoder topk", "SAELens topk (default)"]
    widths = [bar.get_width() for bar in f1.patches]
    assert widths == pytest.approx([0.7, 0.1, 0.6])
    assert len(mcc.patches) == 3
    assert f1.yaxis_inverted()
    drawn.savefig(tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 1000
