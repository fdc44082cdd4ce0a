"""Features of two models, matched by decoder cosine."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.fakes.sae import generator, random_model
from tests.fakes.tiny_models import listed
from torch.nn.functional import normalize

from saeserve.core.export import matching
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.matching import matches

MODEL = random_model("relu")
F = MODEL.config.d_sae


def other_model() -> InferenceModel:
    """The same features in another order, all but eight of them turned away; two of both dead."""
    W_FO = MODEL.W_dec.flip(0).clone()
    W_FO[8:] += 2 * torch.randn(W_FO[8:].shape, generator=generator(3))
    W_FO[3] = 0
    return dataclasses.replace(MODEL, W_dec=W_FO)


@pytest.mark.parametrize("block", [7, 4096])
def test_matches_are_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(matching, "BLOCK", block)
    W_FO, other = MODEL.W_dec.clone(), other_model()
    W_FO[11] = 0
    found = matches(dataclasses.replace(MODEL, W_dec=W_FO), other)
    cosine_FG = normalize(W_FO, dim=1) @ normalize(other.W_dec, dim=1).T
    cosine_FG[11] = -torch.inf
    cosine_FG[:, 3] = -torch.inf
    best_F, nearest_F = cosine_FG.max(dim=1)
    live_F = torch.arange(F) != 11
    assert (found.live, found.other_live) == (F - 1, F - 1)
    assert torch.equal(found.compared_N, live_F.nonzero()[:, 0])
    assert torch.equal(found.nearest_N, nearest_F[live_F])
    torch.testing.assert_close(found.cosine_N, best_F[live_F])
    mutual_F = cosine_FG.argmax(dim=0)[nearest_F] == torch.arange(F)
    assert torch.equal(found.mutual_N, mutual_F[live_F])
    same = {F - 1 - place for place in range(8)} - {F - 1 - 3, 11}
    at = {feature: place for place, feature in enumerate(listed(found.compared_N))}
    for feature in same:
        assert int(found.nearest_N[at[feature]]) == F - 1 - feature
        assert float(found.cosine_N[at[feature]]) == pytest.approx(1, abs=1e-6)
        assert bool(found.mutual_N[at[feature]])


def test_of_too_many_features_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = matches(MODEL, other_model())
    monkeypatch.setattr(matching, "FEWEST", 10)
    monkeypatch.setattr(matching, "MOST_PRODUCTS", 1)
    some, again = matches(MODEL, other_model()), matches(MODEL, other_model())
    assert torch.equal(some.compared_N, again.compared_N)
    chosen = listed(some.compared_N)
    assert len(chosen) == 10
    assert chosen == sorted(chosen)
    assert max(chosen) - min(chosen) > F // 2
    assert some.live == whole.live == F
    assert torch.equal(some.nearest_N, whole.nearest_N[some.compared_N])
    assert torch.equal(some.mutual_N, whole.mutual_N[some.compared_N])


def test_a_model_of_dead_features_matches_nothing() -> None:
    dead = dataclasses.replace(MODEL, W_dec=torch.zeros_like(MODEL.W_dec))
    for pair in ((MODEL, dead), (dead, MODEL), (dead, dead)):
        found = matches(*pair)
        assert len(found.compared_N) == len(found.mutual_N) == 0
