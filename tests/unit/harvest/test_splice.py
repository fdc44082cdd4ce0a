from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.fakes.splicing import Splice
from torch import Tensor
from torch.nn import functional

from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import DataError
from saeserve.harvest import splice
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.layout import decoder_layers
from saeserve.harvest.nats import kl_divergence
from saeserve.harvest.sequences import PAD
from saeserve.harvest.splice import Between

TOKENS = torch.tensor([[0, 5, 9, 3, 20], [0, 7, 8, PAD, PAD], [0, PAD, PAD, PAD, PAD]])
SITES = [SiteSpec(layer=1), SiteSpec(hook="mlp_out", layer=0), SiteSpec(hook="attn_out", layer=2)]


def test_clean_cross_entropy_is_of_every_predicted_token(language_model: LanguageModel) -> None:
    nats = Splice(language_model, SITES[0])(TOKENS, None)
    expected: list[Tensor] = []
    for row, length in ((0, 5), (1, 3)):
        logits = language_model.forward(TOKENS[row : row + 1, :length])[0]
        log_p = functional.log_softmax(logits, dim=-1)
        expected += [-log_p[t, int(TOKENS[row, t + 1])] for t in range(length - 1)]
    assert nats.shape == (6,)
    torch.testing.assert_close(nats, torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.source)
def test_identity_reproduces_and_zeros_change_it(
    language_model: LanguageModel, site: SiteSpec
) -> None:
    splice = Splice(language_model, site)
    clean = splice(TOKENS, None)
    assert torch.equal(splice(TOKENS, lambda x: x), clean)
    assert not torch.allclose(splice(TOKENS, torch.zeros_like), clean, atol=1e-3)
    assert torch.equal(splice(TOKENS, None), clean)


@pytest.mark.parametrize(("bos", "rows"), [(True, 6), (False, 9)])
def test_replace_sees_the_sites_rows_without_bos_and_padding(
    language_model: LanguageModel, bos: bool, rows: int
) -> None:
    seen: list[Tensor] = []

    def replace(x_ND: Tensor) -> Tensor:
        seen.append(x_ND.clone())
        return x_ND

    site = SITES[0]
    Splice(language_model, site, bos)(TOKENS, replace)
    captured = language_model.capture(TOKENS, [site])[site.source]
    mask = TOKENS != PAD
    mask[:, 0] &= not bos
    assert seen[0].shape == (rows, 16)
    assert torch.equal(seen[0], captured[mask])


def test_bos_is_left_as_it_is(language_model: LanguageModel) -> None:
    """What predicts the first token is the BOS position alone, so its loss cannot move."""
    splice = Splice(language_model, SiteSpec(layer=2))
    clean, zeros = splice(TOKENS[:1], None), splice(TOKENS[:1], torch.zeros_like)
    assert clean[0] == zeros[0]
    assert not torch.isclose(clean[1:], zeros[1:]).any()


def test_replacement_of_another_width_is_refused(language_model: LanguageModel) -> None:
    splice = Splice(language_model, SITES[0])
    with pytest.raises(DataError, match=r"shape \[6, 4\], the site \[6, 16\]"):
        splice(TOKENS, lambda x: x[:, :4])
    assert torch.isfinite(splice(TOKENS, None)).all()


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.source)
def test_kl_is_zero_for_the_identity_and_that_of_the_logits_else(
    language_model: LanguageModel, site: SiteSpec
) -> None:
    begun = Splice(language_model, site).begin(TOKENS)
    same = begun.run(lambda x: x)
    assert torch.equal(same.kl_P, torch.zeros(6))
    assert torch.equal(same.ce_P, begun.clean_P)
    zeros = begun.run(torch.zeros_like)
    assert float(zeros.kl_P.max()) > 1e-4
    assert torch.equal(begun.run(lambda x: x).ce_P, begun.clean_P)


def test_kl_is_that_of_the_definition_and_never_negative() -> None:
    draws = torch.Generator().manual_seed(0)
    clean, spliced = (5 * torch.randn(40, 30, generator=draws).double() for _ in range(2))
    p, q = clean.softmax(-1), spliced.softmax(-1)
    torch.testing.assert_close(kl_divergence(clean, spliced), (p * (p / q).log()).sum(-1))
    near = clean + 1e-9 * torch.randn(40, 30, generator=draws)
    assert float(kl_divergence(clean, near).min()) >= 0


@pytest.mark.parametrize("masked", [-torch.inf, -1e30, torch.finfo(torch.float32).min])
def test_kl_is_finite_where_words_are_masked(masked: float) -> None:
    clean, spliced = torch.randn(3, 8), torch.randn(3, 8)
    clean[:, 5:], spliced[:, 5:] = masked, masked
    expected = kl_divergence(clean[:, :5], spliced[:, :5])
    torch.testing.assert_close(kl_divergence(clean, spliced), expected, rtol=0, atol=2e-6)
    assert torch.equal(kl_divergence(clean, clean), torch.zeros(3).double())


def test_kl_does_not_hide_what_is_not_a_number() -> None:
    broken = torch.zeros(1, 4)
    broken[0, 2] = torch.nan
    assert bool(kl_divergence(broken, torch.zeros(1, 4)).isnan().all())
    assert bool(kl_divergence(torch.zeros(1, 4), broken).isnan().all())


def test_float32_is_near_float64() -> None:
    draws = torch.Generator().manual_seed(1)
    clean = 6 * torch.randn(20, 20_000, generator=draws)
    spliced = clean + torch.randn(20, 20_000, generator=draws)
    exact = kl_divergence(clean.double(), spliced.double())
    torch.testing.assert_close(kl_divergence(clean, spliced), exact, rtol=0, atol=5e-6)


MLP = Between((SiteSpec(hook="mlp_in", layer=1),), (SiteSpec(hook="mlp_out", layer=1),))
BACKWARDS = Between((SiteSpec(layer=2),), (SiteSpec(hook="attn_out", layer=0),))
SEVERAL = (SiteSpec(layer=0), SiteSpec(layer=2))


def test_what_computes_as_the_mlp_does_can_stand_in_for_it(language_model: LanguageModel) -> None:
    mlp = decoder_layers(language_model.model)[1].get_submodule("mlp")
    splice = Splice(language_model, MLP)
    clean = splice(TOKENS, None)
    torch.testing.assert_close(splice(TOKENS, lambda c: mlp(c[:, :16])), clean)
    zeros = Splice(language_model, MLP.writes[0])(TOKENS, torch.zeros_like)
    assert torch.equal(splice(TOKENS, lambda c: torch.zeros_like(c[:, 16:])), zeros)


@pytest.mark.parametrize("sites", [MLP, BACKWARDS, Between(SEVERAL, SEVERAL)])
def test_several_sites_are_read_from_the_clean_pass(
    language_model: LanguageModel, sites: Between
) -> None:
    seen: list[Tensor] = []

    def replace(columns_NC: Tensor) -> Tensor:
        seen.append(columns_NC)
        return torch.zeros_like(columns_NC[:, -16 * len(sites.writes) :])

    begun = Splice(language_model, sites).begin(TOKENS)
    found = begun.run(replace)
    clean = language_model.capture(TOKENS, sites.columns)
    mask = TOKENS != PAD
    mask[:, 0] = False
    expected = torch.cat([clean[site.source][mask] for site in sites.columns], dim=1)
    assert torch.equal(seen[0], expected)
    assert float(found.kl_P.max()) > 1e-4
    same = begun.run(lambda c: c[:, -16 * len(sites.writes) :])
    assert torch.equal(same.ce_P, begun.clean_P)


@pytest.mark.parametrize("sites", [*SITES, MLP, BACKWARDS, Between(SEVERAL, SEVERAL)])
def test_passes_that_begin_above_the_layers_below_come_to_the_same_bits(
    language_model: LanguageModel, sites: SiteSpec | Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(columns_NC: Tensor) -> Tensor:
        writes = Between.of(sites).writes
        return 0.5 * columns_NC[:, -16 * len(writes) :]

    short = Splice(language_model, sites).run(TOKENS, replace)
    monkeypatch.setattr(splice, "unchanged", _nothing)
    whole = Splice(language_model, sites).run(TOKENS, replace)
    assert torch.equal(short.ce_P, whole.ce_P)
    assert torch.equal(short.kl_P, whole.kl_P)


def test_layers_below_are_run_once_a_batch(language_model: LanguageModel) -> None:
    runs: list[int] = []
    layers = decoder_layers(language_model.model)
    forwards = [
        layer.get_submodule("self_attn").register_forward_hook(_counting(runs, i))
        for i, layer in enumerate(layers)
    ]
    splicer = splice.Splicer(language_model, [SiteSpec(layer=1)], bos=True)
    splicer.begin(TOKENS)
    runs.clear()
    (begun,) = splicer.begin(TOKENS)
    for _ in range(3):
        begun.run(torch.zeros_like)
    for forward in forwards:
        forward.remove()
    assert runs == [0, 1, 2, 2, 2, 2]
    assert "forward" not in vars(layers[0])


def _nothing(_writes: object) -> int:
    return 0


def _counting(runs: list[int], layer: int) -> Callable[[object, object, object], None]:
    return lambda _module, _args, _output: runs.append(layer)


def test_where_layers_leave_more_than_the_stream_passes_begin_at_the_bottom(
    language_model: LanguageModel,
) -> None:
    """A layer above that reads what one below left elsewhere."""
    layers = decoder_layers(language_model.model)
    left: list[Tensor] = []

    def leave(_module: object, _args: object, output: Tensor) -> None:
        left.append(output)

    def read(_module: object, _args: object, output: Tensor) -> Tensor:
        return output + left.pop() if left else output

    hooks = [
        layers[0].get_submodule("self_attn.o_proj").register_forward_hook(leave),
        layers[2].register_forward_hook(read),
    ]
    try:
        begun = Splice(language_model, SiteSpec(layer=1)).begin(TOKENS)
        assert torch.equal(begun.run(lambda x: x).ce_P, begun.clean_P)
    finally:
        for hook in hooks:
            hook.remove()
