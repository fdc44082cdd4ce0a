"""Loss recovered through a toy language model whose loss in each arm is known in closed form.

The toy reads one site: its cross-entropy at a position is 1 + |row - clean row|^2, so an arm's
loss tells exactly what stood in for each row.
"""

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from tests.fakes.sae import generator, random_model
from torch import Tensor

from saeserve.core.evaluation.arms import Begun, Nats, Replace
from saeserve.core.evaluation.loss_recovered import Baselines, Recovering, ablations, recover
from saeserve.core.evaluation.metric import Metric
from saeserve.core.evaluation.splice_metrics import splice_figures, splice_metrics
from saeserve.core.export.inference_model import InferenceModel
from saeserve.errors import DataError, DataMismatchError, SpecError

D = 12
EMBEDDING = torch.randn(50, D, generator=generator(8))
EMBEDDING[49] *= 1000  # a massive activation
TOKENS = torch.randint(0, 49, (3, 6), generator=generator(9))
MEAN = EMBEDDING[:49].mean(0)
MODEL = random_model("threshold")


def _splice(tokens_ST: Tensor, replace: Replace | None) -> Tensor:
    """Position 0 is BOS: neither replaced nor predicted."""
    clean_ND = EMBEDDING[tokens_ST[:, 1:]].reshape(-1, D)
    rows_ND = clean_ND if replace is None else replace(clean_ND)
    return 1 + (rows_ND - clean_ND).square().sum(dim=1)


Splice = Callable[[Tensor, Replace | None], Tensor]


def _begun(splice: Splice, tokens_ST: Tensor) -> Begun:
    """The divergence of the toy is half of what the loss rises by."""
    clean_P = splice(tokens_ST, None)
    places_P2 = torch.ones_like(tokens_ST)[:, 1:].nonzero()[: len(clean_P)]

    def run(replace: Replace) -> Nats:
        spliced_P = splice(tokens_ST, replace).float()
        return Nats(spliced_P, (spliced_P - clean_P) / 2)

    return Begun(clean_P, places_P2[:, 0], places_P2[:, 1] + 1, run)


def _recovering(
    model: InferenceModel,
    splice: Splice,
    batches: list[Tensor],
    *,
    mean_D: Tensor,
    massive_above: float | list[float],
) -> Recovering:
    baselines = Baselines(ablations(model, mean_D), {})
    own = Recovering(model, baselines, massive_above=massive_above)
    recover([own], ([_begun(splice, tokens_ST)] for tokens_ST in batches))
    return own


def loss_recovered(
    model: InferenceModel,
    splice: Splice,
    batches: list[Tensor],
    *,
    mean_D: Tensor,
    massive_above: float | list[float],
) -> SimpleNamespace:
    """Figures as attributes."""
    own = _recovering(model, splice, batches, mean_D=mean_D, massive_above=massive_above)
    figures = splice_figures(own.tables)
    positions = int(own.tables["tokens"].values().sum())
    return SimpleNamespace(**figures, positions=positions, massive_rows=own.massive_rows)


def _mean_square(rows_ND: Tensor) -> float:
    return float(rows_ND.double().square().sum(1).mean())


def _run(
    batches: list[Tensor], mean_D: Tensor = MEAN, massive_above: float = math.inf
) -> SimpleNamespace:
    return loss_recovered(MODEL, _splice, batches, mean_D=mean_D, massive_above=massive_above)


def test_every_arm_has_its_known_loss() -> None:
    result = _run([TOKENS[:2], TOKENS[2:]])
    x_ND = EMBEDDING[TOKENS[:, 1:]].reshape(-1, D)
    sae = _mean_square(x_ND - MODEL.reconstruct(x_ND))
    mean, zero = _mean_square(x_ND - MEAN), _mean_square(x_ND)
    assert result.positions == 15
    assert result.ce_clean == 1
    assert result.ce_sae == pytest.approx(1 + sae, rel=1e-5)
    assert result.ce_mean == pytest.approx(1 + mean, rel=1e-5)
    assert result.ce_zero == pytest.approx(1 + zero, rel=1e-5)
    assert result.ce_delta_nats == pytest.approx(sae, rel=1e-5)
    assert result.loss_recovered_mean == pytest.approx((mean - sae) / mean, rel=1e-4)
    assert result.loss_recovered_zero == pytest.approx((zero - sae) / zero, rel=1e-4)


def test_massive_rows_stay_as_they_are_in_every_arm() -> None:
    ordinary = _run([TOKENS], massive_above=500.0)
    tokens_ST = TOKENS.clone()
    tokens_ST[1, 3] = 49
    with_massive = _run([tokens_ST], massive_above=500.0)
    replaced = EMBEDDING[TOKENS[1, 3]]
    assert (ordinary.massive_rows, with_massive.massive_rows) == (0, 1)
    for arm, stands_in in (
        ("ce_sae", MODEL.reconstruct(replaced[None])[0]),
        ("ce_mean", MEAN),
        ("ce_zero", torch.zeros(D)),
    ):
        gone = float((replaced - stands_in).square().sum()) / 15
        assert getattr(with_massive, arm) == pytest.approx(getattr(ordinary, arm) - gone, rel=1e-4)


def test_rows_keep_the_type_of_the_language_model() -> None:
    seen: list[torch.dtype] = []

    def splice(tokens_ST: Tensor, replace: Replace | None) -> Tensor:
        rows_ND = EMBEDDING[tokens_ST].reshape(-1, D).bfloat16()
        seen.append(rows_ND.dtype if replace is None else replace(rows_ND).dtype)
        return torch.ones(tokens_ST[:, 1:].numel())

    loss_recovered(MODEL, splice, [TOKENS], mean_D=MEAN, massive_above=math.inf)
    assert seen == [torch.bfloat16] * 4


def test_an_ablation_that_changes_nothing_gives_no_ratio() -> None:
    result = loss_recovered(
        MODEL,
        lambda tokens, _: torch.ones(tokens[:, 1:].numel()),
        [TOKENS],
        mean_D=MEAN,
        massive_above=math.inf,
    )
    assert math.isnan(result.loss_recovered_mean)
    assert math.isnan(result.loss_recovered_zero)
    assert result.ce_delta_nats == 0


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_a_bound_that_replaces_nothing_is_refused(bound: float) -> None:
    with pytest.raises(SpecError, match="massive_above: must be positive"):
        _run([TOKENS], massive_above=bound)


def test_a_mean_of_another_width_is_refused() -> None:
    with pytest.raises(DataMismatchError, match="writes rows of width 12, and the mean has 13"):
        _run([TOKENS], mean_D=torch.zeros(13))


@pytest.mark.parametrize("batches", [[], [TOKENS[:, :1]]])
def test_nothing_predicted_is_refused(batches: list[Tensor]) -> None:
    with pytest.raises(DataError, match="no position was predicted"):
        _run(batches)


def test_a_perfect_model_recovers_everything() -> None:
    identity = dataclasses.replace(
        random_model("topk", d_sae=24, k=24),
        W_enc=torch.cat([torch.eye(D), -torch.eye(D)], dim=1),
        b_enc=torch.zeros(24),
        W_dec=torch.cat([torch.eye(D), -torch.eye(D)]),
        b_dec=torch.zeros(D),
    )
    result = loss_recovered(identity, _splice, [TOKENS], mean_D=MEAN, massive_above=math.inf)
    assert result.ce_delta_nats == pytest.approx(0, abs=1e-9)
    assert result.loss_recovered_mean == pytest.approx(1)


def test_every_row_replaced_stands_beside_the_headline() -> None:
    """A massive row is left as it is in one figure and replaced in the other."""
    tokens_ST = TOKENS.clone()
    tokens_ST[1, 3] = 49
    result = _run([TOKENS, tokens_ST], massive_above=500.0)
    x_ND = EMBEDDING[torch.cat([TOKENS, tokens_ST])[:, 1:]].reshape(-1, D)
    every = _mean_square(x_ND - MODEL.reconstruct(x_ND))
    assert result.ce_delta_with_massive_nats == pytest.approx(every, rel=1e-5)
    assert result.ce_delta_nats < 0.01 * every
    assert result.massive_rows == 1
    ordinary = _run([TOKENS], massive_above=500.0)
    assert ordinary.ce_delta_with_massive_nats == ordinary.ce_delta_nats


def test_kl_is_the_mean_over_predicted_tokens() -> None:
    found = _run([TOKENS])
    assert found.kl_nats == pytest.approx(found.ce_delta_nats / 2, rel=1e-5)


def _metrics(own: Recovering, stratum: str = "") -> dict[str, Metric]:
    return {m.name: m for m in splice_metrics(own.tables, 0) if m.stratum == stratum}


def test_a_mean_predictor_recovers_nothing() -> None:
    nothing = dataclasses.replace(MODEL, W_dec=torch.zeros_like(MODEL.W_dec), b_dec=MEAN)
    own = _recovering(nothing, _splice, [TOKENS], mean_D=MEAN, massive_above=math.inf)
    found = _metrics(own)["loss_recovered_mean"]
    assert found.value == pytest.approx(0, abs=1e-6)
    assert (found.low, found.high) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))


def test_intervals_are_around_the_figures_of_sequences_and_positions() -> None:
    batches = [torch.randint(0, 49, (8, 40), generator=generator(seed)) for seed in range(3)]
    own = _recovering(MODEL, _splice, batches, mean_D=MEAN, massive_above=math.inf)
    found, figures = _metrics(own), splice_figures(own.tables)
    for name in ("ce_sae", "ce_mean", "ce_delta_nats", "kl_nats", "loss_recovered_zero"):
        metric = found[name]
        assert metric.value == pytest.approx(figures[name])
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low < metric.value < metric.high
        assert (metric.n, metric.counted) == (24 * 39, "predicted tokens")
    early, late = _metrics(own, "positions 1-7"), _metrics(own, "positions 32-127")
    assert (early["kl_nats"].n, late["kl_nats"].n) == (24 * 7, 24 * 8)
    assert not _metrics(own, "positions 128-")
    parts = [
        _metrics(own, f"positions {part}")["ce_delta_nats"] for part in ("1-7", "8-31", "32-127")
    ]
    whole = sum(part.value * part.n for part in parts) / sum(part.n for part in parts)
    assert whole == pytest.approx(figures["ce_delta_nats"])


def test_arms_that_were_kept_are_taken_over() -> None:
    first = _recovering(MODEL, _splice, [TOKENS], mean_D=MEAN, massive_above=math.inf)
    kept = {
        name: table for name, table in first.tables.items() if name.endswith((".mean", ".zero"))
    }
    second = Recovering(MODEL, Baselines({}, kept), massive_above=math.inf)
    recover([second], [[_begun(_splice, TOKENS)]])
    assert splice_figures(second.tables) == splice_figures(first.tables)


def test_a_transcoder_writes_another_site_than_it_reads() -> None:
    """Massive rows of either site stay as they are."""
    target = MODEL.config.inputs[0].model_copy(update={"name": "mlp_out.1"})
    config = MODEL.config.model_copy(update={"outputs": (target,)})
    model = dataclasses.replace(MODEL, config=config)
    d_out = model.config.d_out
    written = torch.randn(50, d_out, generator=generator(3))
    written[48] *= 1000

    def splice(tokens_ST: Tensor, replace: Replace | None) -> Tensor:
        ids_N = tokens_ST[:, 1:].flatten()
        columns_NC = torch.cat([EMBEDDING[ids_N], written[ids_N]], dim=1)
        rows_NO = written[ids_N] if replace is None else replace(columns_NC)
        return 1 + (rows_NO - written[ids_N]).square().sum(dim=1)

    tokens_ST = torch.randint(0, 48, (3, 6), generator=generator(9))
    ids_N = tokens_ST[:, 1:].flatten()
    mean_O = written[:48].mean(0)
    plain = loss_recovered(model, splice, [tokens_ST], mean_D=mean_O, massive_above=math.inf)
    error = _mean_square(written[ids_N] - model.reconstruct(EMBEDDING[ids_N]))
    assert plain.ce_delta_nats == pytest.approx(error, rel=1e-5)
    assert plain.ce_zero == pytest.approx(1 + _mean_square(written[ids_N]), rel=1e-5)
    assert plain.ce_mean == pytest.approx(1 + _mean_square(written[ids_N] - mean_O), rel=1e-5)
    tokens_ST[0, 2], tokens_ST[1, 3] = 48, 49
    massive = loss_recovered(
        model, splice, [tokens_ST], mean_D=mean_O, massive_above=[500.0, 500.0]
    )
    assert massive.massive_rows == 2
    assert massive.ce_delta_with_massive_nats > 100 * massive.ce_delta_nats
