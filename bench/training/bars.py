"""The bars of this benchmark, and whether they are reached.

A bar holds on a CPU with AMX; elsewhere the comparisons with SAELens in float32 have a lower one,
and other speeds are reported without. Ours is the faster of our two encoder types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.training.contestant import LIMIT, NAMES, OURS, Contestant
from bench.training.figures import (
    Ratio,
    fraction_of_limit,
    ratio,
    tokens_per_second,
    whole_run,
)
from bench.training.machine import AMX
from bench.training.race import Result
from bench.training.service_record import ServiceCost
from bench.training.sweep_record import SweepJobs

Races = Mapping[str, Sequence[Result]]
ELSEWHERE = 3.0
JACCARD = 0.999
FVU_TOLERANCE = 0.005
SERVICE_SHARE = 0.03
MEMORY_TOLERANCE = 0.1
SWEEP_SPEED = 1.0
SWEEP_JOBS = 1.3
LARGEST = 131_072
LARGEST_BYTES = 24 * 2**30
LIMIT_SHARE = 0.55
PRECISION_RACES = ("topk", "batchtopk", "matryoshka", "jumprelu", "jumprelu_sparse")


@dataclass(frozen=True)
class Verdict:
    """A line of the page."""

    what: str
    measured: str
    bar: str
    verdict: str


@dataclass(frozen=True)
class SpeedBar:
    """Ours against a peer, in one race."""

    race: str
    system: str
    dtype: str
    amx: float
    elsewhere: float | None = None
    whole: bool = False
    """Whether every turn counts, the first too."""


SPEED_BARS = (
    SpeedBar("topk", "saelens", "float32", 10, ELSEWHERE),
    SpeedBar("topk", "saelens", "bfloat16", 6),
    SpeedBar("topk", "sparsify", "float32", 3.5),
    SpeedBar("batchtopk", "saelens", "float32", 10, ELSEWHERE),
    SpeedBar("matryoshka", "saelens", "float32", 8, ELSEWHERE),
    SpeedBar("jumprelu_sparse", "saelens", "float32", 6, ELSEWHERE),
    SpeedBar("jumprelu", "saelens", "float32", 4, ELSEWHERE, whole=True),
)
TITLES = {
    "topk": "TopK with AuxK",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "jumprelu_sparse": "JumpReLU tanh at L0 ≈ 64",
    "jumprelu": "JumpReLU tanh, whole run",
    "auxk": "TopK while AuxK has all of its work",
}


def has_amx(machine: Mapping[str, Any]) -> bool:
    """Whether the bars for AMX hold."""
    return AMX in machine["features"]


def our_best(results: Sequence[Result]) -> Result:
    """The faster of ours."""
    own = [result for result in results if result.contestant.system == OURS]
    return max(own, key=tokens_per_second)


def find(results: Sequence[Result], system: str, dtype: str) -> Result | None:
    """One contestant's result."""
    for result in results:
        if (result.contestant.system, result.contestant.dtype) == (system, dtype):
            return result
    return None


def judged(value: float, bar: float | None, *, least: bool = True) -> str:
    """`reached` or `MISSED`; a figure without a bar is only reported."""
    if bar is None:
        return "no bar without AMX"
    return "reached" if (value >= bar if least else value <= bar) else "MISSED"


def speeds(races: Races, *, amx: bool) -> list[Verdict]:
    """Every speed bar whose race was run."""
    found: list[Verdict] = []
    for bar in SPEED_BARS:
        theirs = find(races.get(bar.race, ()), bar.system, bar.dtype)
        if theirs is not None:
            found.append(_speed(bar, our_best(races[bar.race]), theirs, amx=amx))
    return found


def _speed(bar: SpeedBar, ours: Result, theirs: Result, *, amx: bool) -> Verdict:
    value = ratio(ours, theirs)
    if bar.whole:
        value = Ratio(value.least, whole_run(ours) / whole_run(theirs), value.most)
    wanted = bar.amx if amx else bar.elsewhere
    told = f"≥ {bar.amx:g}×" if amx else f"≥ {bar.amx:g}× with AMX"
    if not amx and bar.elsewhere is not None:
        told += f", ≥ {bar.elsewhere:g}× here"
    what = f"{TITLES[bar.race]}: {_short(ours.contestant)} / {_short(theirs.contestant)}"
    return Verdict(what, f"{value}×", told, judged(value.median, wanted))


def _short(who: Contestant) -> str:
    return f"{NAMES[who.system]} {'bf16' if who.dtype == 'bfloat16' else 'fp32'}"


def limit_share(races: Races, d_in: int, *, amx: bool) -> list[Verdict]:
    """Our TopK's share of the limit with a bfloat16 GEMM."""
    results = races.get("topk", ())
    limit = find(results, LIMIT, "float32")
    if limit is None:
        return []
    best = our_best(results)
    share = fraction_of_limit(best, limit, d_in, "bfloat16")
    told = f"≥ {LIMIT_SHARE:.0%}" + ("" if amx else " with AMX")
    what = f"TopK with AuxK: share of the limit, {_short(best.contestant)}"
    return [Verdict(what, f"{share:.0%}", told, judged(share, LIMIT_SHARE if amx else None))]


def precision(races: Races) -> list[Verdict]:
    """bfloat16 against float32: active sets, and FVU after equal tokens."""
    found: list[Verdict] = []
    for name in PRECISION_RACES:
        low = find(races.get(name, ()), OURS, "bfloat16")
        full = find(races.get(name, ()), OURS, "float32")
        if low is not None and full is not None:
            found += _precision(TITLES[name], low, full)
    return found


def _precision(title: str, low: Result, full: Result) -> list[Verdict]:
    same = low.figures["jaccard"]
    apart = low.figures["fvu"] / full.figures["fvu"] - 1
    return [
        Verdict(
            f"{title}: Jaccard of active sets, bf16 and fp32",
            f"{same:.5f}",
            f"≥ {JACCARD}",
            judged(same, JACCARD),
        ),
        Verdict(
            f"{title}: FVU after equal tokens, bf16 against fp32",
            f"{apart:+.3%}",
            f"within {FVU_TOLERANCE:.1%}",
            judged(abs(apart), FVU_TOLERANCE, least=False),
        ),
    ]


def largest(races: Races) -> list[Verdict]:
    """Whether the widest dictionary trains in the memory that is asked for."""
    results = races.get(f"width_{LARGEST}", ())
    if not results:
        return []
    peak = our_best(results).peak_bytes
    return [
        Verdict(
            f"TopK with d_sae = {LARGEST:,} trains",
            f"{peak / 2**30:.1f} GiB at the peak",
            f"≤ {LARGEST_BYTES / 2**30:.0f} GiB",
            judged(peak, LARGEST_BYTES, least=False),
        )
    ]


def sweep(races: Races, jobs: SweepJobs | None) -> list[Verdict]:
    """A sweep against trainers of their own, and against jobs of their own."""
    found: list[Verdict] = []
    if results := races.get("sweep", ()):
        many, alone = results
        read = sum(turn["rows_read"] for turn in many.turns)
        trained = sum(turn["rows_read"] for turn in alone.turns)
        what = f"A sweep of {many.contestant.members}"
        speed = ratio(many, alone)
        found += [
            _at_least(f"{what}: tokens/s against trainers alone", speed, SWEEP_SPEED),
            Verdict(
                f"{what}: rows read, of those that one trainer reads",
                f"{read / trained:.2f}",
                "≤ 1",
                judged(read / trained, 1.0, least=False),
            ),
        ]
    if jobs is not None:
        what = f"A sweep of {jobs.members}: time to the end against jobs of their own"
        found.append(_at_least(what, Ratio.of(jobs.ratios), SWEEP_JOBS))
    return found


def _at_least(what: str, value: Ratio, bar: float) -> Verdict:
    return Verdict(what, f"{value}×", f"≥ {bar:g}×", judged(value.median, bar))


def service(cost: ServiceCost | None) -> list[Verdict]:
    """What a job through the stack cost apart from itself, and its memory against the plan's."""
    if cost is None:
        return []
    apart = cost.memory_ratio - 1
    return [
        Verdict(
            "CPU seconds of all other processes, of the job's",
            f"{cost.share:.2%}",
            f"≤ {SERVICE_SHARE:.0%}",
            judged(cost.share, SERVICE_SHARE, least=False),
        ),
        Verdict(
            "peak memory of the job against its plan",
            f"{apart:+.1%}",
            f"within {MEMORY_TOLERANCE:.0%}",
            judged(abs(apart), MEMORY_TOLERANCE, least=False),
        ),
    ]
