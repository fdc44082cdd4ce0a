"""Presets: what a short spec becomes, and what overrides what."""

from __future__ import annotations

import math
from typing import Any

import pytest

from saeserve.core.specs.architectures.jumprelu import JumpReluSpec
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.field_sources import flat
from saeserve.core.specs.jobs import JobSpec
from saeserve.core.specs.presets import PRESET_TOKENS, PRESETS
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.errors import SpecError

EVERY = pytest.mark.parametrize("name", sorted(PRESETS))


def short(name: str, **changes: object) -> TrainSpec:
    spec = JobSpec.parse(
        {"train": {"preset": name, "dataset": "acts", "d_sae": 4096} | changes}, ""
    )
    assert spec.train is not None
    return spec.train


@EVERY
def test_a_spec_may_be_a_preset_a_data_set_and_a_width(name: str) -> None:
    spec = resolve(short(name), 64, "x")
    assert (spec.preset, spec.model, spec.tokens) == (name, f"acts-{name}", PRESET_TOKENS)
    assert len(PRESETS[name].source) > 80
    [architecture] = PRESETS[name].fields.keys() & ARCHITECTURE_SPECS.keys()
    assert spec.architecture.name == architecture


@EVERY
def test_the_resolved_spec_shows_everything_and_reads_back(name: str) -> None:
    spec = resolve(short(name), 64, "x")
    written = spec.to_json()
    assert {"batch_size", "micro_batch_size", "tokens", "model", "preprocess"} <= set(written)
    assert {"lr", "eps", "clip_norm", "decay_fraction"} <= set(written["optimizer"])
    again = TrainSpec.parse(written, "train")
    assert again == spec
    assert resolve(again, 64, "x") == spec


@EVERY
def test_a_preset_says_at_what_norm_its_encoder_starts(name: str) -> None:
    architecture = resolve(short(name), 64, "x").architecture
    norm = getattr(architecture, "encoder_norm", None)
    assert norm is None or f"{architecture.name}.encoder_norm = 1" in PRESETS[name].source
    assert norm in (None, 1.0) or f"start at {norm} of the norm" in PRESETS[name].source


NAMED: dict[str, dict[str, str]] = {
    "openai-topk-2024": {
        "topk.k": "k = {:g},",
        "topk.auxk_coefficient": "AuxK 1/{inverse:g},",
        "batch_size": "batch {:,},",
        "optimizer.clip_norm": "gradient norm clipped at {:g}.",
        "optimizer.lr": "2e-4 / sqrt(d_sae / 2^14)",
        "topk.encoder_norm": "start at {:g} of the norm",
    },
    "anthropic-jan-2025": {
        "jumprelu.initial_l0": "{:,.0f} latents fire at the start",
        "jumprelu.initial_log_threshold": "t = {:g},",
        "batch_size": "batch {:,},",
        "optimizer.lr": "rate 2e-4 ",
        "optimizer.decay_fraction": "last {percent:g} % linear",
        "jumprelu.sparsity_coefficient": "lambda_S to {:g} over",
    },
    "anthropic-apr-2024": {
        "relu.sparsity_coefficient": "lambda = {:g} ",
        "relu.sparsity_warmup_fraction": "first {percent:g} %",
        "relu.decoder_norm": "start at norm {:g},",
        "optimizer.lr": "Adam 5e-5 ",
        "optimizer.decay_fraction": "last {percent:g} % linear",
        "optimizer.clip_norm": "clipped at {:g},",
        "batch_size": "to {:,}.",
    },
    "gemma-scope": {
        "jumprelu.bandwidth": "bandwidth {:g},",
        "preprocess.mean_norm": "E|x| = {:g} ",
        "optimizer.beta2": "Adam (0, {:g})",
        "optimizer.eps": "eps 1e-8,",
        "optimizer.lr": "rate 7e-5 ",
        "optimizer.warmup_steps": "after {:,} warm-up steps",
        "batch_size": "batch {:,}.",
        "target_l0": "target_l0 = {:g} ",
    },
    "batchtopk": {
        "batchtopk.k": "k = {:g}.",
        "batchtopk.auxk_coefficient": "AuxK 1/{inverse:g},",
        "optimizer.lr": "2e-4 / sqrt(d_sae / 2^14)",
        "optimizer.warmup_steps": "{:,} warm-up steps",
        "optimizer.decay_fraction": "last {percent:g} % linear",
        "batch_size": "batch {:,} as",
        "optimizer.eps": "Gao's 6.25e-10",
        "batchtopk.encoder_norm": "start at {:g} of the norm",
    },
    "matryoshka-best": {
        "matryoshka.k": "to {:g},",
        "matryoshka.k_initial": "k annealed {:g} to",
        "matryoshka.k_anneal_fraction": "arrives at {percent:g} %",
        "matryoshka.auxk_coefficient": "AuxK 1/{inverse:g},",
        "optimizer.warmup_steps": "{:,} warm-up steps",
        "optimizer.decay_fraction": "the last third linear",
        "batch_size": "batch {:,}.",
    },
}
"""How the text of each preset names its values; in scientific notation as they are written."""
WRITTEN = {"2e-4 / sqrt(d_sae / 2^14)": 2e-4, "rate 2e-4 ": 2e-4, "Adam 5e-5 ": 5e-5} | {
    "eps 1e-8,": 1e-8,
    "rate 7e-5 ": 7e-5,
    "Gao's 6.25e-10": 6.25e-10,
    "the last third linear": 1 / 3,
}


@EVERY
def test_the_text_of_a_preset_names_the_values_that_a_long_run_has(name: str) -> None:
    spec = resolve(short(name, tokens=10**11, d_sae=2**14 if "topk" in name else 2**17), 64, "x")
    values = flat(spec.to_json())
    for path, phrase in NAMED[name].items():
        value = values[path]
        if phrase in WRITTEN:
            assert value == pytest.approx(WRITTEN[phrase]), path
        told = phrase.format(value, percent=100 * value, inverse=1 / value)
        assert told in PRESETS[name].source, path


def test_own_fields_override_those_of_the_preset_one_by_one() -> None:
    spec = short("matryoshka-best", matryoshka={"k": 10, "k_initial": None}, optimizer={"lr": 1e-3})
    assert spec.matryoshka is not None
    assert (spec.matryoshka.k, spec.matryoshka.k_initial) == (10, 80)
    assert spec.matryoshka.sort_by_frequency
    assert spec.optimizer.lr == 1e-3
    assert spec.optimizer.warmup_steps == 1000
    off = short("matryoshka-best", matryoshka={"sort_by_frequency": False}, model="mine")
    assert off.matryoshka is not None
    assert not off.matryoshka.sort_by_frequency
    assert off.model == "mine"


def test_a_batch_of_ones_own_takes_no_micro_batch_from_the_preset() -> None:
    assert short("openai-topk-2024").micro_batch_size == 8192
    own = resolve(short("openai-topk-2024", batch_size=1000), 64, "x")
    assert (own.batch_size, own.micro_batch_size) == (1000, 1000)


def test_a_short_run_has_a_short_warm_up() -> None:
    brief = short("batchtopk", tokens=4096 * 200)
    assert (brief.batch_size, brief.optimizer.warmup_steps) == (1024, 80)
    kept = short("batchtopk", tokens=4096 * 200, optimizer={"warmup_steps": 150})
    assert kept.optimizer.warmup_steps == 150


def test_january_2025_is_literal_and_the_others_centre() -> None:
    centred = {name: short(name).preprocess.centre for name in PRESETS}
    assert centred.pop("anthropic-jan-2025") == "none"
    assert set(centred.values()) == {"mean"}
    january = resolve(short("anthropic-jan-2025", d_sae=131_072), 64, "x")
    assert january.jumprelu is not None
    assert (january.jumprelu.initial_l0, january.batch_size) == (10_000, 32_768)
    narrow = resolve(short("anthropic-jan-2025", d_sae=4608), 576, "x")
    assert narrow.jumprelu is not None
    assert narrow.jumprelu.initial_l0 == 576


@EVERY
@pytest.mark.parametrize("tokens", [1_000, 200_000, 1_000_000, 10_000_000])
def test_a_short_run_has_steps_and_keeps_the_published_loss_and_rate(
    name: str, tokens: int
) -> None:
    """Only batch, warm-up and initial values may differ (test_field_sources: each is told)."""
    long, brief = (resolve(short(name, **f), 256, "x") for f in ({}, {"tokens": tokens}))
    assert brief.steps >= 500
    assert brief.optimizer.lr == long.optimizer.lr
    own = {"bandwidth": 1.0, "initial_log_threshold": 1.0, "initial_l0": 1.0}
    for spec in (long, brief):
        assert spec.architecture.name == long.architecture.name
    assert {
        key: value for key, value in brief.architecture.to_json().items() if key not in own
    } == {key: value for key, value in long.architecture.to_json().items() if key not in own}


def gemma_scope(**changes: object) -> tuple[TrainSpec, JumpReluSpec]:
    spec = resolve(short("gemma-scope", **changes), 64, "x")
    assert spec.jumprelu is not None
    return spec, spec.jumprelu


def test_gemma_scope_has_the_papers_constants_in_the_papers_units() -> None:
    spec, jumprelu = gemma_scope(tokens=4_000_000_000)
    assert (spec.preprocess.mean_norm, spec.batch_size) == (1.0, 4096)
    assert jumprelu.bandwidth == pytest.approx(0.001)
    assert math.exp(jumprelu.initial_log_threshold) == pytest.approx(0.001)
    assert (jumprelu.penalty, jumprelu.unit_norm, jumprelu.pre_act_coefficient) == ("l0", True, 0)
    adam = spec.optimizer
    assert (adam.lr, adam.beta1, adam.beta2, adam.eps) == (7e-5, 0.0, 0.999, 1e-8)
    assert (adam.warmup_steps, adam.decay_fraction, adam.clip_norm) == (1000, 0.0, 0.0)


def test_gemma_scope_asks_for_an_l0_that_may_be_overridden() -> None:
    assert gemma_scope()[0].target_l0 == 100
    assert gemma_scope(target_l0=32.5)[0].target_l0 == 32.5
    with pytest.raises(SpecError, match="100 exceeds d_sae = 64"):
        short("gemma-scope", d_sae=64)


def test_thresholds_of_a_short_run_start_where_they_can_end_in_time() -> None:
    """Log thresholds move by half the rate times the steps: of 7e-5 and 24,414, or 3e-3 and 400."""
    for changes, travel in (
        ({}, 3.5e-5 * 24_414),
        ({"tokens": 512 * 400, "batch_size": 512, "optimizer": {"lr": 3e-3}}, 0.6),
    ):
        _, jumprelu = gemma_scope(**changes)
        assert jumprelu.bandwidth == pytest.approx(0.05 * math.exp(-travel), rel=1e-3)
        assert math.exp(jumprelu.initial_log_threshold) == pytest.approx(jumprelu.bandwidth)
    own = gemma_scope(jumprelu={"bandwidth": 0.2})[1]
    assert own.bandwidth == 0.2
    assert gemma_scope(tokens=4_000_000_000)[1].bandwidth == 0.001


def test_the_six_widths_of_the_best_matryoshka_are_the_published_ones() -> None:
    spec = resolve(short("matryoshka-best"), 64, "x")
    assert spec.matryoshka is not None
    assert spec.matryoshka.widths == (32, 128, 512, 1024, 2048, 4096)


@pytest.mark.parametrize(
    ("changes", "field", "part"),
    [
        ({"preset": "best"}, "train.preset", "there is no preset 'best'"),
        ({"topk": {"k": 4}}, "train.topk", "is not the architecture of preset 'batchtopk'"),
        ({"batchtopk": {"k": 5000}}, "train.batchtopk.k", "exceeds d_sae = 4096"),
        ({"batchtopk": {"colour": 1}}, "train.batchtopk.colour", "no such field"),
        ({"batchtopk": "k=3"}, "train.batchtopk", "k=3"),
        ({"tokens": "many"}, "train.tokens", "many"),
        ({"dataset": "x" * 64}, "train.model", "a name is"),
        ({"d_sae": None}, "train.d_sae", "is required"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], field: str, part: str) -> None:
    with pytest.raises(SpecError, match=part) as caught:
        short("batchtopk", **changes)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"jumprelu": "bandwidth=3"}, "train.jumprelu"),
        ({"optimizer": "fast"}, "train.optimizer"),
        ({"optimizer": {"lr": "fast"}}, "train.optimizer.lr"),
        ({"optimizer": {"lr": -1e9}}, "train.optimizer.lr"),
        ({"tokens": -5}, "train.tokens"),
        ({"batch_size": 0}, "train.batch_size"),
        ({"preprocess": {"mean_norm": 0}}, "train.preprocess.mean_norm"),
        ({"preprocess": {"scale": False}}, "train.preprocess.mean_norm"),
    ],
)
def test_what_gemma_scope_computes_with_may_be_wrong_too(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(SpecError) as caught:
        short("gemma-scope", **changes)
    assert caught.value.field == field
    assert caught.value.remedy
