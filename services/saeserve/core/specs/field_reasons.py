"""Why resolving gave a field of a train spec its value, in words; by the field's last name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from saeserve.core.specs import fitted
from saeserve.core.specs.presets import PRESET_TOKENS, PRESETS, WIDTH_OF_INITIAL
from saeserve.core.specs.training import DEAD_WINDOW_TOKENS, TrainSpec

Reason = Callable[[TrainSpec], str]
"""Empty where the field has its constant all the same."""


def awaited(spec: TrainSpec) -> list[str]:
    """Paths that are resolved once the width of the data is known, in a spec that is not yet."""
    chosen = spec.architecture
    unset = [f"{chosen.name}.{field}" for field in chosen.resolved_by(spec.d_sae)]
    source = [] if spec.sources else ["source"]
    adam = [f"optimizer.{field}" for field in ("lr", "warmup_steps", "eps")]
    return [*source, "micro_batch_size", *adam, *unset]


def _batch(spec: TrainSpec) -> str:
    law = f"to {spec.tokens:,} tokens: the power of two nearest to half their square root"
    if spec.batch_size == fitted.batch_of(spec.tokens):
        return law
    return f"{law}, in whole micro-batches of {spec.micro_batch_size or spec.batch_size:,}"


def _micro(spec: TrainSpec) -> str:
    return "the whole batch at a time" if spec.micro_batch_size == spec.batch_size else ""


def _rate(spec: TrainSpec) -> str:
    return f"to {spec.steps:,} steps, d_sae = {spec.d_sae:,} and the width of the data"


def _warmup(spec: TrainSpec) -> str:
    return f"{fitted.WARMUP_SHARE:.0%} of {spec.steps:,} steps"


def _dead_window(spec: TrainSpec) -> str:
    lowered = spec.dead_window_tokens < DEAD_WINDOW_TOKENS
    return f"a tenth of {spec.tokens:,} tokens, at most {DEAD_WINDOW_TOKENS:,}" if lowered else ""


def _k(spec: TrainSpec) -> str:
    return "target_l0" if spec.target_l0 is not None else ""


def _data_seed(_: TrainSpec) -> str:
    return "seed"


FITTED: Mapping[str, Reason] = {
    "batch_size": _batch,
    "micro_batch_size": _micro,
    "lr": _rate,
    "warmup_steps": _warmup,
    "eps": lambda spec: f"that of {spec.architecture.name}",
    "dead_window_tokens": _dead_window,
    "target_l0": lambda spec: f"no weight of {spec.architecture.name}'s penalty is set",
    "k": _k,
    "data_seed": _data_seed,
    "source": lambda _: "the only source of the data set",
}


def fitted_reasons(spec: TrainSpec) -> dict[str, str]:
    """Why resolving gave a field its value, by the field's last name; empty or left out where it
    has its constant."""
    of_architecture = spec.architecture.resolved_by(spec.d_sae)
    return {**of_architecture, **{field: why(spec) for field, why in FITTED.items()}}


BESIDE_PRESET: Mapping[str, Reason] = {
    "tokens": lambda _: f"presets train on {PRESET_TOKENS:,} tokens",
    "model": lambda _: "data set and preset",
    "optimizer.lr": lambda spec: f"2e-4 / sqrt(d_sae / 16,384) at d_sae = {spec.d_sae:,}",
    "optimizer.warmup_steps": lambda _: "its authors have no warm-up",
    "optimizer.eps": FITTED["eps"],
}
"""By path: what a preset sets by a law of its own."""

Change = Callable[[TrainSpec, Any], str]


def _changed_batch(spec: TrainSpec, was: int) -> str:
    return (
        f"{spec.tokens:,} tokens are {spec.tokens // was:,} batches of {was:,}, and a preset makes "
        f"{fitted.PRESET_STEPS} steps or more"
    )


def _changed_threshold(spec: TrainSpec, _: object) -> str:
    last = PRESETS[spec.preset or ""].last_threshold
    return (
        f"thresholds grow by about half the rate a step, and {spec.steps:,} steps must bring them "
        f"to {last:g}"
    )


CHANGED: Mapping[str, Change] = {
    "batch_size": _changed_batch,
    "micro_batch_size": lambda spec, _: f"the batch is {spec.batch_size:,}",
    "warmup_steps": lambda spec, _: f"at most a tenth of {spec.steps:,} steps",
    "initial_l0": lambda spec, was: (
        f"d_sae = {spec.d_sae:,} is less than "
        f"{WIDTH_OF_INITIAL * was:,.0f}, so it is min(10,000, width of the data), d_sae / 2 at most"
    ),
    "bandwidth": _changed_threshold,
    "initial_log_threshold": _changed_threshold,
    "k": lambda spec, _: f"target_l0 = {spec.target_l0:g} is set",
}
"""All that a preset's values may be changed by."""

ADJUSTED: Mapping[str, str] = {
    "dead_window_tokens": "at most a tenth of the run",
    "initial_l0": "at most d_sae / 2",
    "init_from": "the version that it means now",
    "model": "the version that it means now",
}
"""Why a value that was given is another."""
