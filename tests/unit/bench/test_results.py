"""Records of runs, their means and errors, and the verdicts drawn from them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from bench.results import Estimate, Results, Run, aligned, estimates, table
from bench.verdicts import best_margin, judge, reaches, with_best_peers

SAME = {"topk": "topk", "matryoshka": "plain"}


def run(library: str, name: str, variant: str, seed: int, f1: float) -> Run:
    return Run(library, name, variant, seed, {"f1": f1, "l0": 9.0}, seconds=10.0 + seed)


def seeds(library: str, name: str, variant: str, *f1: float) -> list[Run]:
    return [run(library, name, variant, seed, value) for seed, value in enumerate(f1)]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "found.json"
    runs = tuple(seeds("ours", "topk", "", 0.5, 0.7))
    saved = Results("groundtruth", {"k": 9}, {"0": "ab"}, runs)
    saved.save(path)
    assert Results.load(path) == saved
    assert json.loads(path.read_text())["environment"]["torch"]


def test_an_estimate_is_the_mean_and_its_standard_error() -> None:
    found = Estimate.of([0.1, 0.2, 0.3])
    assert found.mean == pytest.approx(0.2)
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    assert str(found) == "0.200±0.058"
    alone = Estimate.of([0.25])
    assert math.isnan(alone.error)
    assert str(alone) == "0.250"


def test_seeds_of_one_model_are_taken_together() -> None:
    runs = seeds("ours", "topk", "", 0.4, 0.6) + seeds("A", "topk", "default", 0.9)
    found = estimates(runs, "f1")
    assert list(found) == [("ours", "topk", ""), ("A", "topk", "default")]
    assert found["ours", "topk", ""].mean == pytest.approx(0.5)


def test_the_table_has_a_line_for_every_model() -> None:
    runs = seeds("ours", "topk", "", 0.4, 0.6) + seeds("A", "topk", "default", 0.9)
    assert [line.split() for line in table(runs, ["f1", "l0"]).splitlines()] == [
        ["library", "model", "variant", "f1", "l0", "seconds"],
        ["ours", "topk", "0.500±0.100", "9.000±0.000", "10"],
        ["A", "topk", "default", "0.900", "9.000", "10"],
    ]
    assert aligned([["a", "bb"], ["ccc", "d"]]) == "a    bb\nccc  d"


@pytest.mark.parametrize(
    ("us", "them", "sign", "reached"),
    [
        (Estimate(0.80, 0.03), Estimate(0.85, 0.04), 1, True),
        (Estimate(0.79, 0.03), Estimate(0.85, 0.04), 1, False),
        (Estimate(0.90, math.nan), Estimate(0.89, math.nan), 1, True),
        (Estimate(0.88, math.nan), Estimate(0.89, math.nan), 1, False),
        (Estimate(0.20, 0.0), Estimate(0.21, 0.0), -1, True),
        (Estimate(0.22, 0.0), Estimate(0.21, 0.0), -1, False),
    ],
)
def test_one_standard_error_of_the_difference_is_allowed(
    us: Estimate, them: Estimate, sign: int, reached: bool
) -> None:
    assert reaches(us, them, sign) is reached


def test_each_architecture_is_held_against_the_better_peer_run() -> None:
    runs = [
        *seeds("ours", "topk", "", 0.70, 0.72),
        *seeds("ours", "jumprelu", "", 0.9, 0.9),
        *seeds("ours", "plain", "", 0.5, 0.5),
        *seeds("A", "topk", "default", 0.2, 0.2),
        *seeds("A", "topk", "our rate", 0.69, 0.71),
        *seeds("B", "topk", "default", 0.6, 0.6),
        *seeds("B", "matryoshka", "default", 0.6, 0.6),
    ]
    lines = judge(runs, "f1", "ours", SAME, higher_is_better=True).splitlines()
    assert len(lines) == 3
    assert lines[1].split()[0] == "topk"
    assert "A, our rate" in lines[1]
    assert lines[1].endswith("+0.010      reached")
    assert "B, default" in lines[2]
    assert lines[2].endswith("-0.100      MISSED")


def test_lower_may_be_better() -> None:
    runs = seeds("ours", "topk", "", 0.30) + seeds("A", "topk", "x", 0.2)
    runs += seeds("A", "topk", "y", 0.4)
    line = judge(runs, "f1", "ours", SAME, higher_is_better=False).splitlines()[1]
    assert "A, x" in line
    assert line.endswith("MISSED")


def test_other_figures_are_those_of_the_peer_that_is_best_by_one() -> None:
    ours = seeds("ours", "topk", "", 0.3)
    better = seeds("A", "topk", "x", 0.2, 0.4) + seeds("B", "plain", "y", 0.9)
    worse = seeds("A", "topk", "y", 0.1, 0.6) + seeds("B", "topk", "x", 0.5)
    assert with_best_peers(ours + better + worse, "f1", "ours") == ours + better


def test_the_margin_is_between_the_best_of_both() -> None:
    runs = seeds("ours", "topk", "", 0.3) + seeds("ours", "best", "", 0.9)
    runs += seeds("A", "matryoshka", "default", 0.84)
    assert best_margin(runs, "f1", "ours", 0.05).endswith("+0.060, wanted +0.050: reached")
    assert best_margin(runs, "f1", "ours", 0.07).endswith("MISSED")


def test_runs_are_kept_of_the_same_samples_and_setting_only(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    runs = tuple(seeds("ours", "topk", "", 0.5))
    saved = Results("groundtruth", {"k": 9}, {"0": "ab"}, runs)
    fresh = Results("groundtruth", {"k": 9}, {"0": "ab"}, ())
    assert fresh.kept(path) == fresh
    saved.save(path)
    assert fresh.kept(path) == saved
    other = Results("groundtruth", {"k": 9}, {"0": "cd"}, ())
    assert other.kept(path) == other
