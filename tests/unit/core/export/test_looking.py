"""Neighbours by decoder cosine, and how features fire in rows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.fakes.sae import generator, random_model
from tests.fakes.tiny_models import listed

from saeserve.core.export import looking
from saeserve.core.export.looking import activity, neighbours
from saeserve.core.ops import sparse

MODEL = random_model("relu")
ROWS = 3 * torch.randn(40, 12, generator=generator(5))


def test_neighbours_are_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    W_FO = torch.nn.functional.normalize(MODEL.W_dec, dim=1)
    cosine_FF = W_FO @ W_FO.T
    cosine_FF.fill_diagonal_(-2)
    monkeypatch.setattr(looking, "BLOCK_BYTES", 2 * 4 * 7)
    for feature, found in zip((3, 30), neighbours(MODEL, [3, 30], 5), strict=True):
        best = cosine_FF[feature].topk(5)
        assert found.features == tuple(listed(best.indices))
        torch.testing.assert_close(torch.tensor(found.cosines), best.values)


def test_a_duplicate_is_the_first_and_a_dead_latent_is_nobodys() -> None:
    W_FO = MODEL.W_dec.clone()
    W_FO[9] = W_FO[21]
    W_FO[4] = 0
    model = dataclasses.replace(MODEL, W_dec=W_FO)
    twin, dead = neighbours(model, [9, 4], model.config.d_sae)
    assert twin.features[0] == 21
    assert twin.cosines[0] == pytest.approx(1, abs=1e-6)
    assert 4 not in twin.features
    assert len(twin.features) == model.config.d_sae - 2
    assert dead.features == ()


def test_activity_is_that_of_dense_features() -> None:
    f_BF = MODEL.encode_dense(ROWS)
    f_BF[:, 6] *= -1
    found = activity(sparse.from_mask(f_BF, f_BF != 0))
    fires_F = (f_BF != 0).any(0)
    assert torch.equal(found.latents_A, fires_F.nonzero()[:, 0])
    signed_F = torch.where(f_BF.amax(0) >= -f_BF.amin(0), f_BF.amax(0), f_BF.amin(0))
    assert torch.equal(found.largest_A, signed_F[fires_F])
    torch.testing.assert_close(found.mean_A, f_BF.abs().double().mean(0)[fires_F])
    assert torch.equal(found.rows_A, (f_BF != 0).sum(0)[fires_F])
