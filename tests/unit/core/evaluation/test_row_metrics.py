"""Tier 0 on planted models: figures come out at the values that were put in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.fakes.sae import generator, random_model
from torch import Tensor

from saeserve.core.data.dataset import HeldoutRows
from saeserve.core.evaluation.baselines import Principal, RandomDictionary
from saeserve.core.evaluation.duplicates import nearest_cosines
from saeserve.core.evaluation.metric import Metric
from saeserve.core.evaluation.reconstruction import ReconstructionReport, evaluate_reconstruction
from saeserve.core.evaluation.row_metrics import RowMetrics
from saeserve.core.export.inference_model import InferenceModel

D = 12
ROWS = torch.randn(3000, D, generator=generator(1)).abs() + 3
MODEL = random_model("topk", d_sae=24, k=24)
PERFECT = dataclasses.replace(
    MODEL,
    W_enc=torch.cat([torch.eye(D), -torch.eye(D)], dim=1),
    b_enc=torch.zeros(24),
    W_dec=torch.cat([torch.eye(D), -torch.eye(D)]),
    b_dec=torch.zeros(D),
)
"""Only its first twelve latents fire, for all rows are positive."""
MEAN_ALONE = dataclasses.replace(
    MODEL, W_dec=torch.zeros(24, D), b_dec=ROWS.double().mean(0).float()
)


def measured(
    model: InferenceModel, rows: Tensor = ROWS, length: int = 100, batch: int = 256
) -> tuple[ReconstructionReport, dict[str, Metric]]:
    """Rows come in sequences of `length`; 0: they have none."""
    places = np.arange(len(rows), dtype=np.int32)
    sequence = places // length if length else np.full(len(rows), -1, np.int32)
    blocks = [
        HeldoutRows(
            rows[start : start + batch], places[start : start + batch],
            sequence[start : start + batch], places[start : start + batch],
            places[start : start + batch],
        )
        for start in range(0, len(rows), batch)
    ]  # fmt: skip
    own = RowMetrics(model, rows.double().mean(0), seed=0)
    report = evaluate_reconstruction(model, own.passing(blocks), own.watch)
    return report, {metric.name: metric for metric in own.metrics()}


def test_a_perfect_model_and_one_that_says_the_mean() -> None:
    _, perfect = measured(PERFECT)
    assert perfect["fvu"].value == pytest.approx(0, abs=1e-12)
    assert perfect["cosine"].value == pytest.approx(1, abs=1e-9)
    assert perfect["l0"].value == 12
    _, mean = measured(MEAN_ALONE)
    assert mean["fvu"].value == pytest.approx(1, abs=1e-6)
    assert mean["fvu"].n == 3000


def test_the_figures_are_those_of_the_report() -> None:
    model = random_model("threshold")
    report, found = measured(model)
    assert found["fvu"].value == pytest.approx(report.fvu, rel=1e-9)
    assert found["l0"].value == pytest.approx(report.l0)
    assert found["dead_at_n"].value == pytest.approx(report.silent)
    frequency = report.frequency_F.double()
    assert found["density_p50"].value == pytest.approx(float(frequency.quantile(0.5)), rel=1e-5)
    share = float((frequency > 0.1).double().mean())
    assert found["density_above_10_percent"].value == pytest.approx(share)
    for name in ("fvu", "cosine", "l0"):
        low, high = found[name].low, found[name].high
        assert low is not None
        assert high is not None
        assert low < found[name].value < high


def test_silent_latents_are_dead_up_to_a_density() -> None:
    _, found = measured(PERFECT)
    assert found["dead_at_n"].value == 0.5
    bound = found["dead_density_bound"].value
    assert (1 - bound) ** 3000 == pytest.approx(0.05)
    assert found["density_p95"].value == 1


def test_correlated_sequences_have_wider_intervals_than_their_rows_alone() -> None:
    drift = torch.randn(30, 1, generator=generator(4)).repeat_interleave(100, dim=0)
    rows = ROWS + drift
    model = random_model("threshold")
    widths = [
        found.high - found.low
        for length in (100, 1)
        if (found := measured(model, rows, length)[1]["l0"]).low is not None
        and found.high is not None
    ]
    assert widths[0] > 1.5 * widths[1]


def test_rows_without_sequences_are_drawn_in_runs() -> None:
    _, runs = measured(random_model("threshold"), length=0)
    _, same = measured(random_model("threshold"), length=256)
    assert runs["fvu"] == same["fvu"]


def test_batches_do_not_matter() -> None:
    model = random_model("threshold")
    _, found = measured(model, batch=256)
    _, again = measured(model, batch=70)
    for name, metric in found.items():
        assert again[name].value == pytest.approx(metric.value, rel=1e-9)
        assert (again[name].low is None) == (metric.low is None)
        if metric.low is not None:
            assert again[name].low == pytest.approx(metric.low, rel=1e-9)


def test_duplicated_latents_are_found() -> None:
    W = torch.randn(200, 64, generator=generator(2))
    W[7] = 3 * W[150]
    W[9] = 0
    nearest = nearest_cosines(W, 0)
    assert len(nearest) == 199
    assert int((nearest > 0.9).sum()) == 2
    model = dataclasses.replace(PERFECT, W_dec=torch.cat([torch.eye(D), torch.eye(D)]))
    assert measured(model)[1]["duplicate_latents"].value == 1
    assert measured(PERFECT)[1]["duplicate_latents"].value == 0


def test_a_sample_of_a_large_dictionary_is_compared_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    W = torch.randn(400, 16, generator=generator(2))
    monkeypatch.setattr("saeserve.core.evaluation.duplicates.MOST_FLOP", 2 * 400 * 16 * 50)
    nearest = nearest_cosines(W.repeat(2, 1)[:800], 0)
    assert len(nearest) == 25
    assert bool((nearest > 0.999).all())


def fvu(x: Tensor, made: Tensor) -> float:
    return float((x - made).square().sum() / (x - x.mean(0)).square().sum())


def test_components_leave_what_lies_beyond_them() -> None:
    drawn = np.random.default_rng(3).standard_normal((40, 40), np.float32)
    basis = torch.as_tensor(np.linalg.qr(drawn).Q)
    scales = torch.tensor([10.0, 8, 6] + [0.5] * 37)
    x = torch.randn(4000, 40, generator=generator(5)) * scales @ basis + 20
    found = Principal.fit(x, 3, seed=0)
    values = np.linalg.svdvals((x - x.mean(0)).double().numpy()) ** 2
    assert fvu(x, found.reconstruct(x)) == pytest.approx(
        float(values[3:].sum() / values.sum()), rel=1e-3
    )
    assert fvu(x, Principal.fit(x, 400, seed=0).reconstruct(x)) == pytest.approx(0, abs=1e-9)


def test_a_random_dictionary_keeps_norms_and_sparsity_and_is_worse() -> None:
    W = torch.randn(300, 40, generator=generator(6))
    W[5] = 0
    codes = torch.rand(4000, 300, generator=generator(7))
    x = (codes * (codes > 0.99)) @ W + 1
    found = RandomDictionary.fit(x, W, 3, seed=0)
    assert torch.allclose(found.W_FO.square().sum(1), W.square().sum(1), rtol=1e-4)
    error = fvu(x, found.reconstruct(x))
    assert 0.1 < error < 1
    assert error > fvu(x, Principal.fit(x, 40, seed=0).reconstruct(x))
    again = RandomDictionary.fit(x, W, 3, seed=0)
    assert torch.equal(found.W_FO, again.W_FO)
