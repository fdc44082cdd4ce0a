"""Steering a language model: with and without a cache, and in the direction that was planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from tests.fakes.small_model import small_model
from tests.fakes.tiny_families import PARALLEL, SEQUENTIAL, WITHOUT_SUM, tiny_family
from tests.fakes.tiny_models import CPU
from torch import Tensor

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.steering import Change, change_of
from saeserve.core.formats.model import ReluActivation
from saeserve.core.specs.sites import SiteSpec
from saeserve.core.specs.steering import EditSpec
from saeserve.errors import SpecError
from saeserve.harvest.generating import Sampling, continued, written
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.steering import Growing, Intervention, Positions, logits_of

PROMPT = [0, 5, 9, 3, 20]
BOS = Positions(bos=True)
SITE = SiteSpec(layer=1)
FAMILIES = ["llama", "gemma2", "qwen3", "gpt2", "bloom", "gpt_neox", "falcon", "mixtral", "mamba"]
SETTINGS = SEQUENTIAL | PARALLEL | WITHOUT_SUM


def dictionary(d: int) -> InferenceModel:
    return small_model(ReluActivation(), d_in=d, d_sae=3 * d, seed=2)


def moving(sae: InferenceModel, *edits: EditSpec) -> Callable[[Tensor], Change]:
    return lambda x_BD: change_of(sae, sae.encode(x_BD), edits)


def at(
    model: LanguageModel,
    move: Callable[[Tensor], Change],
    positions: Positions = BOS,
    read: SiteSpec = SITE,
    write: SiteSpec = SITE,
) -> Intervention:
    return Intervention(model.place(read), model.place(write), move, positions)


def family(name: str, language_model: LanguageModel) -> LanguageModel:
    return LanguageModel(tiny_family(name, **SETTINGS[name]), language_model.tokenizer, CPU)


def nothing() -> None:
    pass


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_with_and_without_a_cache(name: str, language_model: LanguageModel) -> None:
    model = family(name, language_model)
    site = SiteSpec(hook="resid_post", layer=1)
    move = moving(dictionary(32), EditSpec(feature=3, add=6.0), EditSpec(feature=8, scale=-1.0))
    intervention = at(model, move, read=site, write=site)
    texts: list[list[int]] = []
    for cached in (True, False):
        sampling = Sampling(8, cached=cached)
        texts.append(written(model, PROMPT, sampling, intervention, nothing))
    assert texts[0] == texts[1]
    whole_TV = logits_of(model, [*PROMPT, *texts[0]], intervention)
    growing = Growing(model, intervention, cached=True)
    parts = [growing.logits(PROMPT)[-1], *(growing.logits([t])[-1] for t in texts[0])]
    torch.testing.assert_close(
        torch.stack(parts), whole_TV[len(PROMPT) - 1 :], rtol=1e-4, atol=1e-4
    )
    clean_TV = logits_of(model, [*PROMPT, *texts[0]], None)
    assert not torch.allclose(clean_TV[-1], whole_TV[-1], atol=1e-3)


def test_a_cache_is_used(language_model: LanguageModel) -> None:
    growing = Growing(language_model, None, cached=True)
    assert len(growing.logits(PROMPT)) == len(PROMPT)
    assert len(growing.logits([7])) == 1
    slow = Growing(language_model, None, cached=False)
    slow.logits(PROMPT)
    assert len(slow.logits([7])) == len(PROMPT) + 1


def test_logits_move_in_the_planted_direction(language_model: LanguageModel) -> None:
    """A dictionary whose decoder row is the direction in which a token's logit grows."""
    model = language_model
    last = SiteSpec(layer=model.layers - 1)
    unembedding_VD = cast("Any", model.model).get_output_embeddings().weight
    sae = dictionary(model.d)
    wanted = 33
    direction_D = torch.nn.functional.normalize(unembedding_VD[wanted].detach(), dim=0)
    sae.W_dec[7] = direction_D
    intervention = at(model, moving(sae, EditSpec(feature=7, add=50.0)), read=last, write=last)
    clean_TV, steered_TV = (logits_of(model, PROMPT, each) for each in (None, intervention))
    before, after = (t[-1].log_softmax(0)[wanted] for t in (clean_TV, steered_TV))
    assert float(after) > float(before) + 1
    result = continued(model, PROMPT, Sampling(4), intervention, nothing)
    assert result.steered.tokens.count(wanted) > result.unsteered.tokens.count(wanted)


def test_an_edit_that_changes_nothing_leaves_every_bit(language_model: LanguageModel) -> None:
    move = moving(dictionary(16), EditSpec(feature=3, scale=1.0))
    intervention = at(language_model, move)
    same = torch.equal(
        logits_of(language_model, PROMPT, intervention), logits_of(language_model, PROMPT, None)
    )
    assert same
    result = continued(language_model, PROMPT, Sampling(3), intervention, nothing)
    assert (result.first_steered_position, result.kl_nats) == (None, None)
    assert result.unsteered == result.steered


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (Positions(bos=True), [1, 2, 3, 4, 5, 6]),
        (Positions(), [0, 1, 2, 3, 4, 5, 6]),
        (Positions(start=4, bos=True), [4, 5, 6]),
        (Positions(start=2, stop=6, bos=True), [2, 3, 4, 5]),
        (Positions(special_ids=(9, 3), bos=True), [1, 4, 5, 6]),
    ],
)
def test_positions_are_those_that_were_asked_for(
    language_model: LanguageModel, positions: Positions, expected: list[int]
) -> None:
    intervention = at(
        language_model, moving(dictionary(16), EditSpec(feature=3, add=1.0)), positions
    )
    for cached in (True, False):
        growing = Growing(language_model, intervention, cached)
        growing.logits(PROMPT)
        growing.logits([40])
        growing.logits([41])
        assert intervention.changed == expected


def test_scores_are_those_of_the_two_models(language_model: LanguageModel) -> None:
    intervention = at(language_model, moving(dictionary(16), EditSpec(feature=3, add=9.0)))
    result = continued(language_model, PROMPT, Sampling(5), intervention, nothing)
    whole = [*PROMPT, *result.steered.tokens]
    log_p_TV = logits_of(language_model, whole, intervention).double().log_softmax(1)
    expected = [
        float(log_p_TV[len(PROMPT) - 1 + i, t]) for i, t in enumerate(result.steered.tokens)
    ]
    assert result.steered.log_probs_steered == pytest.approx(expected, abs=1e-5)
    clean_V, moved_V = (
        logits_of(language_model, PROMPT[:2], each)[1].double().log_softmax(0)
        for each in (None, intervention)
    )
    assert result.first_steered_position == 1
    assert result.kl_nats == pytest.approx(
        float((clean_V.exp() * (clean_V - moved_V)).sum()), abs=1e-5
    )


def test_draws_are_the_same_for_both_texts_and_follow_the_distribution() -> None:
    logits_V = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    chosen = [Sampling(1, temperature=1.0, seed=5).choose(logits_V, step) for step in range(3000)]
    shares = torch.bincount(torch.tensor(chosen), minlength=3) / len(chosen)
    torch.testing.assert_close(shares, logits_V.exp(), atol=0.03, rtol=0)
    assert chosen[:50] == [
        Sampling(1, temperature=1.0, seed=5).choose(logits_V, step) for step in range(50)
    ]
    assert Sampling(1).choose(logits_V, 0) == 0


def test_a_text_ends_with_the_token_that_ends_documents(language_model: LanguageModel) -> None:
    move = moving(dictionary(16), EditSpec(feature=3, add=9.0))
    free = continued(language_model, PROMPT, Sampling(6), at(language_model, move), nothing)
    end = free.unsteered.tokens[1]
    sampling = Sampling(6, ends=frozenset([end]))
    result = continued(language_model, PROMPT, sampling, at(language_model, move), nothing)
    assert result.unsteered.tokens[-1] == end
    assert (result.unsteered.ended_by, free.unsteered.ended_by) == ("eos", "length")


def test_a_transcoder_moves_what_it_writes(language_model: LanguageModel) -> None:
    read, write = SiteSpec(hook="mlp_in", layer=1), SiteSpec(hook="mlp_out", layer=1)
    sae = dictionary(16)
    intervention = at(
        language_model, moving(sae, EditSpec(feature=4, add=3.0)), read=read, write=write
    )
    after = SiteSpec(layer=1)
    clean = language_model.capture(torch.tensor([PROMPT]), [after])[after.source][0]
    seen: list[Tensor] = []

    def keep(x_STD: Tensor) -> None:
        seen.append(x_STD[0].clone())

    (handle,) = language_model.place(after).attach(keep, (1, len(PROMPT)))
    logits_of(language_model, PROMPT, intervention)
    handle.remove()
    expected = clean[1:] + 3.0 * sae.W_dec[4]
    torch.testing.assert_close(seen[0][1:], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(seen[0][0], clean[0])
    backwards = at(
        language_model, moving(sae, EditSpec(feature=4, add=3.0)), read=write, write=read
    )
    with pytest.raises(SpecError, match="before the one read"):
        logits_of(language_model, PROMPT, backwards)
