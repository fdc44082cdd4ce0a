"""What a reader of a finished run must know: warnings by code, judged on its closing figures."""

from __future__ import annotations

import math
from collections.abc import Iterator

from saeserve.core.specs.run_warning import RunWarning
from saeserve.core.specs.training import TrainSpec

HIGH_FVU = 0.5
LARGEST_MISS = 0.05
"""Relative distance of L0 from the k or target_l0 that was asked for."""
DENSE_SHARE = 1 / 8
"""Share of d_sae; with a higher L0 the code is not sparse."""


def is_judged(spec: TrainSpec, heldout_rows: int) -> bool:
    """Whether the trained state is judged with its evaluation form: where L0 is controlled or a
    threshold is calibrated, and where no held-out rows evaluate the exported model."""
    calibrated = spec.architecture.calibrates_threshold
    return spec.target_l0 is not None or calibrated or not (spec.eval_rows and heldout_rows)


def closing_warnings(spec: TrainSpec, fvu: float, l0: float, rows: str) -> tuple[RunWarning, ...]:
    """Warnings of a run of resolved `spec` whose exported model has this FVU and mean L0.

    `rows` says on which rows both were measured, e.g. "held-out". A warning stands exactly where
    its condition holds: FVU_UNDEFINED where fvu is NaN; FVU_WORSE_THAN_MEAN at fvu >= 1, else
    FVU_HIGH above 0.5; L0_MISSED where
    l0 is more than 5 % from `spec.asked_l0`; L0_DENSE above d_sae / 8; L0_BELOW_ONE below 1.
    """
    found = (*_of_fvu(fvu, rows), *_of_miss(spec, l0, rows), *_of_l0(spec.d_sae, l0, rows))
    return tuple(RunWarning(code=code, message=message) for code, message in found)


def without_fvu(fvu: float, rows: str) -> Iterator[tuple[str, str]]:
    """Code and message where rows have no FVU (NaN), which is then left out of the figures."""
    if math.isnan(fvu):
        yield (
            "FVU_UNDEFINED",
            f"the {rows} rows are all equal, so they have no FVU and nothing says how good the "
            "model is: hold out a larger fraction, or evaluate it on another data set",
        )


def _of_fvu(fvu: float, rows: str) -> Iterator[tuple[str, str]]:
    yield from without_fvu(fvu, rows)
    if fvu >= 1:
        yield (
            "FVU_WORSE_THAN_MEAN",
            f"FVU {fvu:.4g} on {rows} rows: the reconstruction is worse than the mean row. Leave "
            "optimizer.lr to its default, or train longer",
        )
    elif fvu > HIGH_FVU:
        yield (
            "FVU_HIGH",
            f"FVU {fvu:.4g} on {rows} rows: more than half of the variance is lost. Train longer, "
            "raise d_sae, ask for a higher L0, or leave optimizer.lr to its default",
        )


def _of_miss(spec: TrainSpec, l0: float, rows: str) -> Iterator[tuple[str, str]]:
    asked = spec.asked_l0
    if asked is not None and abs(l0 / asked - 1) > LARGEST_MISS:
        name = "k" if spec.target_l0 is None else "target_l0"
        yield (
            "L0_MISSED",
            f"L0 {l0:.4g} on {rows} rows is {l0 / asked - 1:+.1%} from {name} = {asked:g}: train "
            "longer, or leave batch size, rate and initial values to their defaults",
        )


def _of_l0(d_sae: int, l0: float, rows: str) -> Iterator[tuple[str, str]]:
    if l0 > d_sae * DENSE_SHARE:
        yield (
            "L0_DENSE",
            f"L0 {l0:.4g} on {rows} rows exceeds an eighth of d_sae = {d_sae}: the code is not "
            "sparse. Lower k or target_l0, raise d_sae, or train longer",
        )
    if l0 < 1:
        yield (
            "L0_BELOW_ONE",
            f"L0 {l0:.4g} on {rows} rows: most rows are encoded by no latent. Set target_l0, or "
            "lower the sparsity coefficient",
        )
