"""Presets: documented training configs by name, which a job spec may override field by field.

A train spec that names a preset needs a data set and d_sae, nothing else. What it sets itself wins;
`resolved_spec` shows the whole. What all of them share, whatever their sources say: activations are
cut at five median norms (massive ones carry most of the variance; the source's data have none to
speak of, or do not say), scaled by one constant to E|x| = sqrt(d_in), and centred, except where a
preset says otherwise. In short runs batch, warm-up and initial values are fitted to the run, and
where d_sae is small the number of latents that fire at the start is; `field_sources` of a job lists
what was changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.fitted import batch_of_preset
from saeserve.errors import SpecError

Fields = dict[str, Any]

PRESET_TOKENS = 100_000_000
"""Rows that a preset trains on by default: between dictionary_learning's demo (50 M) and
SAEBench's baselines (500 M). The published runs below saw billions; set `tokens` when you have
them, or have less."""
WIDTH_OF_INITIAL = 8
"""Latents of d_sae for each that fires at the start, at least, for a published number of those."""


@dataclass(frozen=True)
class Preset:
    """Fields of a TrainSpec, and where they come from."""

    source: str
    fields: Fields
    last_threshold: float | None = None
    """Where thresholds end that start so low that a short run would not get there."""


PRESETS: dict[str, Preset] = {
    "openai-topk-2024": Preset(
        source="Gao et al. 2024, arXiv 2406.04093, appendix A, and its code (train.py): "
        "k = 32, AuxK 1/32, batch 131,072, constant rate, gradient norm clipped at 1. The rate "
        "follows the paper's law 2e-4 / sqrt(d_sae / 2^14). Different here: averaged weights are "
        "left out; rows are centred by the data's mean in place of being normalised each by its "
        "own; rows of W_enc start at 0.3 of the norm of W_dec's, theirs at the same norm "
        "(topk.encoder_norm = 1); the gradient of AuxK reaches b_dec through the encoder alone, "
        "as in the paper's formula, and not through AuxK's decoding, as in the code.",
        fields={
            "topk": {"k": 32, "auxk_coefficient": 1 / 32, "b_dec_init": "geometric_median"},
            "batch_size": 131_072,
            "micro_batch_size": 8192,
            "optimizer": {"clip_norm": 1.0, "decay_fraction": 0.0},
        },
    ),
    "anthropic-jan-2025": Preset(
        source="Anthropic, Circuits Updates, January 2025, taken literally: no centring, about "
        "10,000 latents fire at the start (where d_sae is 8 times as many or more), t = 0.1, batch "
        "32,768, rate 2e-4 with the last 20 % "
        "linear to zero, lambda_S to 20 over the whole run. The pre-act loss is written with the "
        "pre-activation, as the text says and its formula does not.",
        fields={
            "jumprelu": {
                "sparsity_coefficient": 20.0,
                "pre_act_coefficient": 3e-6,
                "tanh_scale": 4.0,
                "bandwidth": 2.0,
                "initial_log_threshold": 0.1,
                "initial_l0": 10_000.0,
            },
            "batch_size": 32_768,
            "micro_batch_size": 4096,
            "optimizer": {"lr": 2e-4, "clip_norm": 1.0, "decay_fraction": 0.2},
            "preprocess": {"centre": "none"},
        },
    ),
    "anthropic-apr-2024": Preset(
        source="Anthropic, Circuits Updates, April 2024: L1 weighted by decoder norms, lambda = 5 "
        "warmed over the first 5 %, decoder rows start at norm 0.1, Adam 5e-5 with the last 20 % "
        "linear to zero, gradient norm clipped at 1, batch 2,048 to 4,096.",
        fields={
            "relu": {
                "sparsity_coefficient": 5.0,
                "sparsity_warmup_fraction": 0.05,
                "decoder_norm": 0.1,
            },
            "batch_size": 4096,
            "optimizer": {"lr": 5e-5, "clip_norm": 1.0, "decay_fraction": 0.2},
        },
    ),
    "gemma-scope": Preset(
        source="Lieberum et al. 2024 (Gemma Scope), arXiv 2408.05147, section 3, and Rajamanoharan "
        "et al. 2024 (JumpReLU), arXiv 2407.14435, in their own units, E|x| = 1 (they: "
        "E|x|^2 = 1): unit decoder rows, W_enc = W_dec^T, first threshold and bandwidth 0.001, no "
        "pre-act loss, Adam (0, 0.999), eps 1e-8, rate 7e-5 after 1,000 warm-up steps (linear; "
        "theirs a cosine from a tenth), no decay, no clipping, batch 4,096. Different here: they "
        "sweep lambda for each site and publish the L0 that came out, here target_l0 = 100 (near "
        "their canonical models) is asked for, by the quadratic penalty; rows are "
        "centred, so b_dec is not subtracted from the input; b_enc starts where d_in latents fire "
        "a row, theirs at 0, where half of all do. Thresholds grow by about half the rate a "
        "step in log, and from 0.001 it takes the 4 billion tokens that they have: in shorter runs "
        "they and the bandwidth start higher, that much below 0.05, where those of SmolLM2 rows "
        "end.",
        fields={
            "jumprelu": {
                "penalty": "l0",
                "sparsity_coefficient": 1.0,
                "pre_act_coefficient": 0.0,
                "bandwidth": 1e-3,
                "initial_log_threshold": math.log(1e-3),
                "unit_norm": True,
            },
            "target_l0": 100.0,
            "batch_size": 4096,
            "optimizer": {
                "lr": 7e-5,
                "beta1": 0.0,
                "beta2": 0.999,
                "eps": 1e-8,
                "clip_norm": 0.0,
                "warmup_steps": 1000,
                "decay_fraction": 0.0,
            },
            "preprocess": {"mean_norm": 1.0},
        },
        last_threshold=0.05,
    ),
    "batchtopk": Preset(
        source="Bussmann, Leask, Nanda 2024, arXiv 2412.06410, with the constants of "
        "dictionary_learning's BatchTopKTrainer: AuxK 1/32, rate 2e-4 / sqrt(d_sae / 2^14), 1,000 "
        "warm-up steps, the last 20 % linear to zero; batch 4,096 as in the authors' code, k = 32. "
        "Different here: rows of W_enc start at 0.3 of the norm of W_dec's, theirs at the same "
        "norm (batchtopk.encoder_norm = 1); Adam's eps is Gao's 6.25e-10, theirs 1e-8; the "
        "threshold is averaged over the last 5 % of the steps.",
        fields={
            "batchtopk": {"k": 32, "auxk_coefficient": 1 / 32},
            "batch_size": 4096,
            "optimizer": {"warmup_steps": 1000, "decay_fraction": 0.2},
        },
    ),
    "matryoshka-best": Preset(
        source="What raised F1 on SynthSAEBench-16k (arXiv 2602.14687) from BatchTopK's 0.74 to "
        "0.98 and more, by public single-seed runs: Matryoshka (arXiv 2503.17547) with detached "
        "inner levels, AuxK 1/32, latents sorted by frequency, k annealed 80 to 25, six widths "
        "(32 to 4,096 at d_sae = 4,096), 1,000 warm-up steps, the last third linear to zero, "
        "batch 1,024. Those runs anneal k to the last step; here it arrives at 80 %, so that "
        "the threshold is calibrated at the k that was asked for. Rows of W_enc start at the "
        "norm of W_dec's (matryoshka.encoder_norm = 1).",
        fields={
            "matryoshka": {
                "k": 25,
                "k_initial": 80,
                "k_anneal_fraction": 0.8,
                "auxk_coefficient": 1 / 32,
                "detach_inner": True,
                "sort_by_frequency": True,
            },
            "batch_size": 1024,
            "optimizer": {"warmup_steps": 1000, "decay_fraction": 1 / 3},
        },
    ),
}


def overlaid(fields: Mapping[str, Any]) -> Fields:
    """`fields` over those of the preset that they name; as they are where they name none.

    A micro-batch belongs to its batch: whoever sets the batch need not know the preset's other. A
    preset's warm-up is a tenth of the run at most. The model is called `<dataset>-<preset>` unless
    named. Raises SpecError for a preset that there is not, or that is of another architecture.
    """
    own = _without_none(fields)
    name = own.get("preset")
    if name is None:
        return dict(fields)
    preset = _preset(name, own)
    under: Fields = {"tokens": PRESET_TOKENS, **preset.fields}
    under = _fitted(under, own)
    if "dataset" in own:
        under["model"] = f"{own['dataset']}-{name}"
    under["optimizer"] = _shortened(under["optimizer"], {**under, **own})
    if "target_l0" in own:
        under = _without_k(under)
    if preset.last_threshold is not None:
        reach = _within_reach(preset, _merged(under, own))
        under["jumprelu"] = {**under["jumprelu"], **reach}
    return _merged(under, own)


def _fitted(under: Fields, own: Fields) -> Fields:
    """With a batch that leaves enough steps, and January 2025's 10,000 initial latents only where
    d_sae is large against them, as the source has it."""
    tokens, d_sae, published = (
        own.get("tokens", PRESET_TOKENS),
        own.get("d_sae"),
        under["batch_size"],
    )
    if "batch_size" not in own and isinstance(tokens, int | float) and tokens >= 1:
        under = under | {"batch_size": batch_of_preset(published, int(tokens))}
    if "batch_size" in own or under["batch_size"] != published:
        under.pop("micro_batch_size", None)
    jumprelu = _tree(under.get("jumprelu")) or {}
    widest = WIDTH_OF_INITIAL * jumprelu.get("initial_l0", 0)
    if isinstance(d_sae, int) and d_sae < widest:
        del jumprelu["initial_l0"]
        under = under | {"jumprelu": jumprelu}
    return under


def _without_k(under: Fields) -> Fields:
    """The preset's fields without its k, in whose place target_l0 stands."""
    cut = {name: _tree(under.get(name)) for name in ARCHITECTURE_SPECS}
    return under | {
        name: {field: value for field, value in tree.items() if field != "k"}
        for name, tree in cut.items()
        if tree is not None
    }


def _preset(name: object, own: Fields) -> Preset:
    found = PRESETS.get(name) if isinstance(name, str) else None
    if found is None:
        names = ", ".join(PRESETS)
        raise SpecError(
            "train.preset", f"there is no preset {name!r}", remedy=f"name one of: {names}"
        )
    for other in ARCHITECTURE_SPECS:
        if other in own and other not in found.fields:
            raise SpecError(
                f"train.{other}",
                f"is not the architecture of preset {name!r}",
                remedy=f"leave {other} out, or leave out the preset",
            )
    return found


def _shortened(optimizer: Fields, whole: Fields) -> Fields:
    """The preset's optimizer with no more warm-up than a tenth of the run."""
    tokens, batch = whole["tokens"], whole["batch_size"]
    warmup = optimizer.get("warmup_steps")
    if warmup is None or not isinstance(tokens, int) or not isinstance(batch, int) or batch < 1:
        return optimizer
    return {**optimizer, "warmup_steps": max(0, min(warmup, tokens // batch // 10))}


def _within_reach(preset: Preset, whole: Fields) -> Fields:
    """First threshold and bandwidth of a run whose thresholds are to end near `last_threshold`.

    Adam moves log thresholds by the rate a step at most and by about half of that as gradients
    waver, so they start no further below than that times the steps, and never below the preset's
    own start.
    """
    tokens, batch = whole["tokens"], whole["batch_size"]
    rate = (_tree(whole["optimizer"]) or {}).get("lr")
    start, last = preset.fields["jumprelu"]["bandwidth"], preset.last_threshold
    if isinstance(tokens, int) and isinstance(batch, int) and isinstance(rate, float) and batch > 0:
        start = max(start, (last or 0.0) * math.exp(-max(0.0, rate / 2 * (tokens // batch))))
    return {"bandwidth": start, "initial_log_threshold": math.log(start)}


def _merged(under: Fields, over: Fields) -> Fields:
    merged = dict(under)
    for name, value in over.items():
        below, above = _tree(under.get(name)), _tree(value)
        merged[name] = value if below is None or above is None else _merged(below, above)
    return merged


def _tree(value: object) -> Fields | None:
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else None


def _without_none(fields: Mapping[str, Any]) -> Fields:
    """Unset is unset, whether left out or null."""
    found: Fields = {}
    for name, value in fields.items():
        tree = _tree(value)
        if value is not None:
            found[name] = value if tree is None else _without_none(tree)
    return found
