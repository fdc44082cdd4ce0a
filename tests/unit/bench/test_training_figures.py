"""Speeds, ratios, shares of the limit, and the verdicts drawn from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bench.training import bars
from bench.training.contestant import OURS
from bench.training.figures import (
    Ratio,
    fraction_of_limit,
    ratio,
    tokens_per_second,
    whole_run,
)
from bench.training.limits import Limits, limit_seconds, parameters
from bench.training.race import Result
from bench.training.service_record import ServiceCost
from bench.training.sweep_record import SweepJobs
from tests.fakes.races import D_IN, contestant, field, limit, result


def test_speed_is_that_of_the_median_turn_after_the_first() -> None:
    found = result(contestant("saelens"), (100.0, 2.0, 4.0, 6.0))
    assert tokens_per_second(found) == 64 * 4 / 4.0


def test_a_whole_run_counts_the_first_turn_too() -> None:
    assert whole_run(result(contestant("saelens"), (9.0, 1.0, 2.0))) == 64 * 12 / 12.0


def test_ratios_are_taken_within_rounds() -> None:
    ours = result(contestant(OURS), (1.0, 1.0, 2.0, 1.0))
    theirs = result(contestant("saelens"), (1.0, 10.0, 30.0, 12.0))
    found = ratio(ours, theirs)
    assert found == Ratio(10.0, 12.0, 15.0)
    assert str(found) == "12.00 (10.00 to 15.00)"


def test_a_sweep_counts_the_tokens_of_every_member() -> None:
    alone = result(contestant(OURS), (1.0, 1.0, 1.0))
    many = result(contestant(OURS, members=8), (9.0, 4.0, 4.0))
    assert tokens_per_second(many) == 2 * tokens_per_second(alone)
    assert ratio(many, alone) == Ratio(2.0, 2.0, 2.0)


def test_the_limit_is_a_gemm_and_the_bytes_of_adam() -> None:
    assert parameters(3, 5) == 5 * 3 + 3 * 5 + 5 + 3
    assert limit_seconds(3, 5, 2.0, 28.0) == 2.0 + 38


def test_the_share_of_the_limit_is_of_the_type_that_is_asked_for() -> None:
    found = result(contestant(OURS), (9.0, 4.0, 4.0))
    moved = 28 * parameters(D_IN, 1000) / 1e9
    full = fraction_of_limit(found, limit(0.3, 0.1), D_IN, "float32")
    low = fraction_of_limit(found, limit(0.3, 0.1), D_IN, "bfloat16")
    assert full == pytest.approx(0.3 + moved)
    assert low == pytest.approx(0.1 + moved)


def test_the_machine_is_measured_at_small_shapes() -> None:
    turn = Limits(8, 32, 16).turn()
    assert set(turn) == {"gemm_float32", "gemm_bfloat16", "bytes_per_second"}
    assert all(value > 0 for value in turn.values())


def speeds(races: bars.Races, *, amx: bool) -> dict[str, str]:
    return {v.what: v.verdict for v in bars.speeds(races, amx=amx)}


def test_the_faster_of_ours_is_held_against_the_bar_of_the_machine() -> None:
    races = {"topk": field()}
    first, sparsify = (
        "TopK with AuxK: saeserve bf16 / SAELens fp32",
        "TopK with AuxK: saeserve bf16 / sparsify fp32",
    )
    assert speeds(races, amx=True) == {first: "MISSED", sparsify: "MISSED"}
    assert speeds(races, amx=False) == {first: "reached", sparsify: "no bar without AMX"}


def test_the_whole_run_of_jumprelu_is_judged_over_all_turns() -> None:
    (found,) = bars.speeds({"jumprelu": field("jumprelu")}, amx=False)
    assert found.measured.startswith(f"{21 / 11:.2f} ")
    assert found.verdict == "MISSED"


def test_the_limit_has_its_bar_with_amx_alone() -> None:
    races = {"topk": field()}
    (with_amx,) = bars.limit_share(races, D_IN, amx=True)
    (without,) = bars.limit_share(races, D_IN, amx=False)
    assert (with_amx.verdict, without.verdict) == ("MISSED", "no bar without AMX")
    assert bars.limit_share({}, D_IN, amx=True) == []


@pytest.mark.parametrize(
    ("jaccard", "fvu", "verdicts"),
    [
        (0.9995, 0.502, ["reached", "reached"]),
        (0.9985, 0.498, ["MISSED", "reached"]),
        (1.0, 0.51, ["reached", "MISSED"]),
        (1.0, 0.49, ["reached", "MISSED"]),
    ],
)
def test_bfloat16_keeps_sets_and_fvu(jaccard: float, fvu: float, verdicts: list[str]) -> None:
    low = result(contestant(OURS, dtype="bfloat16"), (1.0, 1.0), fvu, jaccard=jaccard)
    full = result(contestant(OURS), (1.0, 1.0), 0.5)
    assert [v.verdict for v in bars.precision({"topk": [low, full]})] == verdicts


def test_the_widest_dictionary_has_to_fit() -> None:
    who = contestant(OURS, dtype="bfloat16")
    name = f"width_{bars.LARGEST}"
    (fits,) = bars.largest({name: [result(who, (1.0, 1.0))]})
    assert fits.verdict == "reached"
    assert bars.largest({}) == []


def cost(**changes: Any) -> ServiceCost:  # noqa: ANN401 - passed on
    known: dict[str, Any] = {
        "machine": {},
        "spec": {},
        "seconds": 60.0,
        "cpu_seconds": {"control": 1.0, "worker": 0.5, "job": 100.0},
        "planned_bytes": 1000,
        "peak_bytes": 1050,
        "metrics": {},
    }
    return ServiceCost(**known | changes)


def test_the_service_is_held_against_its_job_and_the_job_against_its_plan() -> None:
    assert [v.verdict for v in bars.service(cost())] == ["reached", "reached"]
    dear = cost(cpu_seconds={"control": 4.0, "job": 100.0}, peak_bytes=800)
    assert [v.verdict for v in bars.service(dear)] == ["MISSED", "MISSED"]
    assert bars.service(None) == []


def swept(seconds: float, rows_read: float) -> bars.Races:
    many = result(contestant(OURS, members=8), (9.0, seconds, seconds))
    alone = result(contestant(OURS), (1.0, 1.0, 1.0))
    return {"sweep": [with_rows(many, rows_read), with_rows(alone, 100.0)]}


def with_rows(found: Result, read: float) -> Result:
    return replace(found, turns=tuple(turn | {"rows_read": read} for turn in found.turns))


def test_a_sweep_is_no_slower_than_trainers_alone_and_reads_once() -> None:
    assert [v.verdict for v in bars.sweep(swept(8.0, 100.0), None)] == ["reached", "reached"]
    assert [v.verdict for v in bars.sweep(swept(8.2, 800.0), None)] == ["MISSED", "MISSED"]
    assert bars.sweep({}, None) == []


def test_a_sweep_ends_before_as_many_jobs_do() -> None:
    for separate, verdict in ((13.1, "reached"), (12.9, "MISSED")):
        jobs = SweepJobs({}, 8, 2048, (10.0,), (separate,))
        assert [v.verdict for v in bars.sweep({}, jobs)] == [verdict]
