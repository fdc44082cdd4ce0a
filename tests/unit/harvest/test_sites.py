"""Sites of many families: found by structure, equal to what the residual stream is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import torch
from tests.fakes.splicing import Splice
from tests.fakes.tiny_families import (
    PARALLEL,
    SANDWICH,
    SEQUENTIAL,
    WITHOUT_SUM,
    tiny_family,
    tiny_multimodal,
)
from tests.fakes.tiny_models import CPU, save_model
from torch import Tensor

from saeserve.core.specs.sites import Hook, SiteSpec
from saeserve.errors import SpecError
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.probe import check_rows
from saeserve.harvest.sequences import PAD

ADDED: tuple[Hook, ...] = ("resid_pre", "attn_out", "mlp_out", "resid_post")
ALL: tuple[Hook, ...] = (*ADDED, "mlp_in", "attn_z")
TOKENS = torch.tensor([[0, 5, 9, 3, 20, 17, 8, 2], [0, 7, 11, 33, PAD, PAD, PAD, PAD]])
FAMILIES = SEQUENTIAL | PARALLEL


def model_of(family: str, language_model: LanguageModel) -> LanguageModel:
    more = (FAMILIES | WITHOUT_SUM)[family]
    return LanguageModel(tiny_family(family, **more), language_model.tokenizer, CPU)


def at(hooks: Sequence[Hook], layer: int = 1) -> list[SiteSpec]:
    return [SiteSpec(hook=hook, layer=layer) for hook in hooks]


def values(model: LanguageModel, hooks: Sequence[Hook]) -> dict[str, Tensor]:
    captured = model.capture(TOKENS, at(hooks))
    return {hook: captured[f"{hook}.1"] for hook in hooks}


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_mlp_are_what_is_added_to_the_stream(
    family: str, language_model: LanguageModel
) -> None:
    x = values(model_of(family, language_model), ADDED)
    same(x["resid_pre"] + x["attn_out"] + x["mlp_out"], x["resid_post"])
    assert min(float(x[hook].abs().max()) for hook in ("attn_out", "mlp_out")) > 1e-3


@pytest.mark.parametrize("family", ["llama", "gemma2", "bloom", "falcon"])
def test_each_added_part_is_its_own(family: str, language_model: LanguageModel) -> None:
    """Attention without its output weights adds nothing, and the MLP still what it adds."""
    model = model_of(family, language_model)
    place = model.place(SiteSpec(hook="attn_z", layer=1))
    cast("Tensor", place.module.weight).data.zero_()
    bias = cast("Tensor | None", getattr(place.module, "bias", None))
    if bias is not None:
        bias.data.zero_()
    x = values(model, ADDED)
    assert not x["attn_out"].any()
    same(x["resid_pre"] + x["mlp_out"], x["resid_post"])


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_the_stream_between_attention_and_mlp(family: str, language_model: LanguageModel) -> None:
    x = values(model_of(family, language_model), ("resid_pre", "attn_out", "resid_mid", "mlp_out"))
    same(x["resid_pre"] + x["attn_out"], x["resid_mid"])


@pytest.mark.parametrize("family", PARALLEL)
def test_parallel_layers_have_no_stream_between(family: str, language_model: LanguageModel) -> None:
    model = model_of(family, language_model)
    with pytest.raises(SpecError, match=r"resid_mid\.1 cannot be taken .* side by side"):
        model.place(SiteSpec(hook="resid_mid", layer=1))


@pytest.mark.parametrize("family", WITHOUT_SUM)
@pytest.mark.parametrize("hook", ["attn_out", "mlp_out", "resid_mid", "mlp_in", "attn_z"])
def test_sites_whose_sum_does_not_hold_are_refused_by_name(
    family: str, hook: Hook, language_model: LanguageModel
) -> None:
    model = model_of(family, language_model)
    with pytest.raises(SpecError, match=rf"{hook}\.1 cannot be taken from this model") as caught:
        model.capture(TOKENS, [SiteSpec(hook=hook, layer=1)])
    assert caught.value.remedy == "use resid_pre or resid_post"
    assert values(model, ("resid_pre", "resid_post"))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "mixtral", "bloom"])
def test_the_mlp_makes_what_it_adds_of_what_it_reads(
    family: str, language_model: LanguageModel
) -> None:
    """Splicing the input of the MLP moves its output and nothing before it."""
    model = model_of(family, language_model)
    clean = values(model, ("attn_out", "mlp_in", "mlp_out"))
    site = SiteSpec(hook="mlp_in", layer=1)
    assert not torch.equal(
        Splice(model, site)(TOKENS, torch.zeros_like),
        Splice(model, site)(TOKENS, None),
    )
    assert clean["mlp_in"].shape == clean["mlp_out"].shape


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gpt_neox", "gemma2"])
def test_heads_stand_side_by_side_in_attn_z(family: str, language_model: LanguageModel) -> None:
    model = model_of(family, language_model)
    whole = model.capture(TOKENS, [SiteSpec(hook="attn_z", layer=1)])["attn_z.1"]
    sites = [SiteSpec(hook="attn_z", layer=1, head=head) for head in range(4)]
    parts = model.capture(TOKENS, sites)
    assert torch.equal(torch.cat([parts[site.source] for site in sites], dim=-1), whole)
    assert parts["attn_z.1.head3"].shape == (2, 8, 8)
    with pytest.raises(SpecError, match="head 4 does not exist: the layer has 4 heads"):
        model.place(SiteSpec(hook="attn_z", layer=1, head=4))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_site_does_not_depend_on_the_others(family: str, language_model: LanguageModel) -> None:
    """Some layers add in place to what a module returned."""
    model = model_of(family, language_model)
    every = values(model, ALL)
    for hook in ALL:
        assert torch.equal(values(model, (hook,))[hook], every[hook]), hook


@pytest.mark.parametrize("family", FAMILIES)
def test_a_site_does_not_depend_on_batch_and_padding(
    family: str, language_model: LanguageModel
) -> None:
    model = model_of(family, language_model)
    together = values(model, ALL)
    for row, length in ((0, 8), (1, 4)):
        alone = model.capture(TOKENS[row : row + 1, :length], at(ALL))
        for hook in ALL:
            same(together[hook][row, :length], alone[f"{hook}.1"][0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", [*ADDED, "mlp_in", "attn_z", "resid_mid"])
def test_splicing_what_is_there_changes_nothing(
    family: str, hook: Hook, language_model: LanguageModel
) -> None:
    if hook == "resid_mid" and family in PARALLEL:
        hook = "resid_pre"
    splice = Splice(model_of(family, language_model), SiteSpec(hook=hook, layer=1))
    clean = splice(TOKENS, None)
    assert torch.equal(splice(TOKENS, lambda x: x), clean)
    assert not torch.allclose(splice(TOKENS, torch.zeros_like), clean, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", *SANDWICH, "granite"])
def test_a_spliced_sum_is_the_stream_that_it_makes(
    family: str, language_model: LanguageModel
) -> None:
    """Doubling what the MLP adds is as adding it to what the layer returns."""
    model = model_of(family, language_model)
    added = values(model, ("mlp_out",))["mlp_out"][TOKENS != PAD]
    doubled = Splice(model, SiteSpec(hook="mlp_out", layer=1), bos=False)(TOKENS, lambda x: 2 * x)
    layer = Splice(model, SiteSpec(layer=1), bos=False)(TOKENS, lambda x: x + added)
    torch.testing.assert_close(doubled, layer, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gemma3", "llava"])
def test_the_text_part_of_a_model_that_reads_images(kind: str, tmp_path: Path) -> None:
    whole = tiny_multimodal(kind)
    save_model(whole, tmp_path)
    model = LanguageModel.load(tmp_path, None, CPU, "float32")
    assert (model.layers, model.d) == (3, 32)
    check_rows(model, at(ALL))
    states = cast("Any", whole)(input_ids=TOKENS[:1], output_hidden_states=True).hidden_states
    same(model.capture(TOKENS[:1], at(("resid_post",)))["resid_post.1"], states[2].detach())


def test_weights_that_the_files_lack_are_not_drawn(tmp_path: Path) -> None:
    save_model(tiny_family("llama"), tmp_path)
    file = tmp_path / "model.safetensors"
    weights = safetensors.torch.load(file.read_bytes())
    del weights["model.layers.1.mlp.up_proj.weight"]
    file.write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
    with pytest.raises(SpecError, match=r"lacks 1 of the model's weights, .*layers\.1\.mlp\.up"):
        LanguageModel.load(tmp_path, None, CPU, "float32")


def test_models_that_look_ahead_are_refused(language_model: LanguageModel) -> None:
    ahead = tiny_family("bert", is_decoder=False)
    model = LanguageModel(ahead, language_model.tokenizer, CPU)
    with pytest.raises(SpecError, match=r"rows of resid_post\.1 depend on what follows a token"):
        check_rows(model, at(("resid_post",)))
    check_rows(model_of("llama", language_model), at(ALL))


def test_products_in_bfloat16_that_a_model_cannot_take(tmp_path: Path) -> None:
    save_model(tiny_family("mamba"), tmp_path)
    model = LanguageModel.load(tmp_path, None, CPU, "bfloat16")
    with pytest.raises(SpecError, match=r"does not run .* bfloat16") as caught:
        model.place(SiteSpec(layer=1))
    assert caught.value.remedy == "set compute_dtype = float32"


def test_factors_of_long_positions_do_not_mix(language_model: LanguageModel) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 16,
    }
    phi = tiny_family("phi3", rope_parameters=rope, original_max_position_embeddings=16)
    model = LanguageModel(phi, language_model.tokenizer, CPU)
    model.check_context(16)
    with pytest.raises(SpecError, match="17 exceeds the 16 positions up to which"):
        model.check_context(17)
