"""Closing warnings: each stands exactly where its condition holds."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.specs.closing import closing_warnings, is_judged
from saeserve.core.specs.training import TrainSpec

ARCHITECTURES: list[dict[str, Any]] = [
    {"topk": {"k": 8}},
    {"topk": {}, "target_l0": 8},
    {"batchtopk": {"k": 8.0}},
    {"matryoshka": {"k": 8.0}},
    {"relu": {}, "target_l0": 8},
    {"gated": {"sparsity_coefficient": 1.0}},
]


def spec_of(**fields: object) -> TrainSpec:
    known = {"dataset": "acts", "model": "m", "d_sae": 128, "tokens": 10_000, "batch_size": 100}
    return TrainSpec.parse(known | fields, "train")


@given(
    st.sampled_from(ARCHITECTURES),
    st.floats(0, 3) | st.sampled_from([0.5, 1.0]),
    st.floats(0, 128) | st.sampled_from([0.99, 1.0, 7.5, 8.0, 8.5, 16.0, 16.1]),
)
def test_each_warning_stands_exactly_where_its_condition_holds(
    fields: dict[str, Any], fvu: float, l0: float
) -> None:
    spec = spec_of(**fields)
    found = closing_warnings(spec, fvu, l0, "held-out")
    asked = None if "gated" in fields else 8.0
    assert {warning.code for warning in found} == {
        code
        for code, holds in {
            "FVU_WORSE_THAN_MEAN": fvu >= 1,
            "FVU_HIGH": 0.5 < fvu < 1,
            "L0_MISSED": asked is not None and abs(l0 / asked - 1) > 0.05,
            "L0_DENSE": l0 > 128 / 8,
            "L0_BELOW_ONE": l0 < 1,
        }.items()
        if holds
    }
    assert all("held-out rows" in warning.message for warning in found)


def test_a_model_worse_than_the_mean_is_described_otherwise_than_a_poor_one() -> None:
    [poor] = closing_warnings(spec_of(topk={"k": 8}), 0.6, 8, "training")
    [broken] = closing_warnings(spec_of(topk={"k": 8}), 1.0, 8, "training")
    assert "half of the variance" in poor.message
    assert "worse than the mean" in broken.message
    assert "on training rows" in broken.message


def test_rows_that_do_not_vary_are_named_for_their_figures_lack_an_fvu() -> None:
    [none] = closing_warnings(spec_of(topk={"k": 8}), math.nan, 8, "held-out")
    assert none.code == "FVU_UNDEFINED"
    assert "held-out rows are all equal" in none.message


def test_both_forms_are_compared_where_l0_is_controlled_calibrated_or_not_evaluated() -> None:
    assert not is_judged(spec_of(topk={}), 500)
    assert is_judged(spec_of(topk={}), 0)
    assert is_judged(spec_of(topk={}, eval_rows=0), 500)
    assert is_judged(spec_of(batchtopk={}), 500)
    assert is_judged(spec_of(relu={}, target_l0=4), 500)
