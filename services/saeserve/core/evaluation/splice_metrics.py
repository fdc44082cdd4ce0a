"""Figures of tier 1 out of the sums of its arms, with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from saeserve.core.evaluation.arms import STRATA, ArmTable, sample
from saeserve.core.evaluation.loss_recovered import CLEAN, EVERY, SAE
from saeserve.core.evaluation.metric import Measured, Metric, Statistic, Sums, Values, known

COUNTED = "predicted tokens"


def splice_figures(tables: Mapping[str, ArmTable]) -> dict[str, float]:
    """The scalar figures by name; of arms that were run, NaN where an ablation changes nothing."""
    sums = sample(tables, None).totals
    arms = [name.removeprefix("ce.") for name in tables if name.startswith("ce.")]
    figures = {f"ce_{arm}": _ce(sums, arm) for arm in arms if arm != EVERY}
    figures["ce_delta_nats"] = figures[f"ce_{SAE}"] - figures[f"ce_{CLEAN}"]
    figures["ce_delta_with_massive_nats"] = _ce(sums, EVERY) - figures[f"ce_{CLEAN}"]
    figures["kl_nats"] = sums[f"kl.{SAE}"] / sums["tokens"]
    with np.errstate(divide="ignore", invalid="ignore"):
        for ablated in ("mean", "zero"):
            if ablated in arms:
                figures[f"loss_recovered_{ablated}"] = _recovered(SAE, ablated)(sums)
    return {name: float(value) for name, value in figures.items()}


def splice_metrics(tables: Mapping[str, ArmTable], seed: int) -> list[Metric]:
    """Every arm's loss and divergence, and what is recovered, over all positions; then the SAE's by
    position."""
    arms = [name.removeprefix("ce.") for name in tables if name.startswith("ce.")]
    whole = Measured(sample(tables, None), COUNTED, "tokens", seed)
    found = [metric for arm in arms for metric in _of_arm(whole, arm)]
    found += [metric for ablated in ("mean", "zero") for metric in _ratios(whole, arms, ablated)]
    for part, stratum in enumerate(STRATA):
        within = Measured(sample(tables, part), COUNTED, "tokens", seed)
        if within.sample.totals["tokens"]:
            found += _by_position(within, stratum)
    return known(found)


def _of_arm(measured: Measured, arm: str) -> Iterator[Metric]:
    if arm != EVERY:
        yield measured.metric(
            f"ce_{arm}", "nats", lambda sums: _ce(sums, arm), definition="cross_entropy/1"
        )
    if arm == CLEAN:
        return
    suffix = {SAE: "", EVERY: "with_massive_"}.get(arm, f"{arm}_")
    yield measured.metric(
        f"ce_delta_{suffix}nats", "nats", _delta(arm), definition="cross_entropy_delta/1"
    )
    yield measured.metric(f"kl_{suffix}nats", "nats", _kl(arm), definition="kl_clean_spliced/1")


def _ratios(measured: Measured, arms: list[str], ablated: str) -> Iterator[Metric]:
    """What the SAE and the fitted baselines recover of what the ablation loses."""
    if ablated not in arms:
        return
    for arm in (SAE, "pca", "random"):
        if arm in arms:
            name = f"loss_recovered_{ablated}" + ("" if arm == SAE else f"_{arm}")
            statistic = _recovered(arm, ablated)
            definition = f"loss_recovered_{ablated}/1"
            yield measured.metric(name, "ratio", statistic, definition=definition)


def _by_position(measured: Measured, stratum: str) -> Iterator[Metric]:
    definitions = {"ce_delta_nats": "cross_entropy_delta/1", "kl_nats": "kl_clean_spliced/1"}
    statistics = {"ce_delta_nats": _delta(SAE), "kl_nats": _kl(SAE)}
    for name, definition in definitions.items():
        yield measured.metric(
            name, "nats", statistics[name], definition=definition, stratum=stratum
        )


def _ce(sums: Sums, arm: str) -> Values:
    return sums[f"ce.{arm}"] / sums["tokens"]


def _delta(arm: str) -> Statistic:
    return lambda sums: _ce(sums, arm) - _ce(sums, CLEAN)


def _kl(arm: str) -> Statistic:
    return lambda sums: sums[f"kl.{arm}"] / sums["tokens"]


def _recovered(arm: str, ablated: str) -> Statistic:
    """(CE_ablated − CE_arm) / (CE_ablated − CE_clean)."""

    def statistic(sums: Sums) -> Values:
        return (_ce(sums, ablated) - _ce(sums, arm)) / _delta(ablated)(sums)

    return statistic
