"""Results of races that nobody ran, for what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.peers.setting import Architecture
from bench.training.contestant import LIMIT, OURS, Contestant, Dtype, System
from bench.training.race import Result
from bench.training.records import Part

D_IN = 100
MACHINE: dict[str, Any] = {
    "cpu": "a CPU",
    "features": ["avx2"],
    "cores": 2,
    "memory_bytes": 8 * 2**30,
    "packages": {"torch": "2"},
}


def contestant(
    system: System,
    architecture: Architecture = "topk",
    dtype: Dtype = "float32",
    **changes: Any,  # noqa: ANN401 - passed on
) -> Contestant:
    known: dict[str, Any] = {"d_sae": 1000, "k": 8, "batch": 64, "steps": 12, "turn_steps": 4}
    values: dict[str, Any] = {**known, "lr": 1e-3, **changes}
    return Contestant(system, architecture, dtype, **values)


def result(who: Contestant, seconds: Sequence[float], fvu: float = 0.5, **figures: float) -> Result:
    turns = tuple({"seconds": value} for value in seconds)
    return Result(who, turns, 1e6, 2e6, {"fvu": fvu, "l0": 8.0, **figures})


def limit(gemm: float = 0.1, low: float = 0.05, rate: float = 1e9, rounds: int = 3) -> Result:
    turn = {"gemm_float32": gemm, "gemm_bfloat16": low, "bytes_per_second": rate}
    return Result(contestant(LIMIT), (turn,) * rounds, 1e6, 2e6, {})


def field(architecture: Architecture = "topk") -> list[Result]:
    """Ours take 1 s a turn in bfloat16 and 2 in float32, SAELens 6, sparsify 3."""
    low: Dtype = "bfloat16"
    return [
        limit(),
        result(contestant(OURS, architecture), (9.0, 2.0, 2.0)),
        result(contestant(OURS, architecture, low), (9.0, 1.0, 1.0), jaccard=1.0),
        result(contestant("saelens", architecture), (9.0, 5.0, 7.0)),
        result(contestant("sparsify", architecture), (9.0, 3.0, 3.0)),
    ]


def part(name: str, results: Sequence[Result]) -> Part:
    setting = {"d_sae": 1000, "k": 8, "batch": 64, "turn_steps": 4, "pairs": 2, "threads": 2}
    rows = {"d": D_IN, "dataset": "rows", "source": "s", "train_rows": 99}
    return Part(name, MACHINE, setting, rows, 60.0, {name: results})
