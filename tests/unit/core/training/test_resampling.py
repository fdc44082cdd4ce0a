"""Resampling: dead latents take the places of badly reconstructed rows, really and exactly."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.forms import FORMS, form_setup, form_spec
from tests.fakes.training import (
    TINY,
    D,
    F,
    FolderSink,
    features_of,
    metric,
    run_all,
    run_until,
    tiny_setup,
    tiny_spec,
)
from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import Batch
from saeserve.core.architectures.registry import ARCHITECTURES, architecture_of
from saeserve.core.ops.norms import row_norms
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.resampling import Upcoming, resample
from saeserve.core.training.state import TrainerState
from saeserve.core.training.trainer import Trainer
from saeserve.errors import SpecError

DEAD = [3, 7, 20, 21]
FRACTION = 0.2
EVERY = pytest.mark.parametrize("name", sorted(ARCHITECTURES))
SELECTING = ("topk", "batchtopk", "matryoshka")
"""A latent fires there if it is among the largest, so its encoder may have to be longer."""


class Rows:
    """A stream of known rows."""

    def __init__(self, x_RD: Tensor, block: int = 16) -> None:
        self.x_RD = x_RD
        self.block = block

    def read(self, position: int, size: int) -> Batch:
        x_BD = self.x_RD[position : position + size]
        return Batch(x_BD, x_BD)

    def upcoming(self, seed: int = 0) -> Upcoming:
        return Upcoming(self.read, 0, len(self.x_RD), self.block, seed)


def of(trainer: Trainer) -> tuple[Architecture[Any], ArchitectureSpec]:
    return architecture_of(trainer.spec), trainer.spec.architecture


def mask(dead: list[int]) -> Tensor:
    dead_F = torch.zeros(F, dtype=torch.bool)
    dead_F[dead] = True
    return dead_F


def trained(name: str, tmp_path: Path) -> Trainer:
    """A few steps in: moments are not zero, latents have their counts."""
    trainer = Trainer.start(tiny_setup(tiny_spec(name, tokens=5 * 64)))
    run_all(trainer, FolderSink(tmp_path))
    return trainer


def rows_of(trainer: Trainer, count: int = 50) -> Rows:
    setup = tiny_setup(trainer.spec)
    return Rows(setup.preprocessing.apply(setup.source.batch(2**20, count)))


def drawn(state: TrainerState, rows: Rows) -> list[int]:
    """The row whose direction each dead latent has taken."""
    units_RD = rows.x_RD - state.params["b_dec"]
    units_RD = units_RD / row_norms(units_RD)[:, None]
    W_ND = state.params["W_dec"][DEAD]
    cosine_NR = W_ND / row_norms(W_ND)[:, None] @ units_RD.T
    assert float(cosine_NR.amax(1).min()) > 1 - 1e-5
    return [int(i) for i in cosine_NR.argmax(1)]


@EVERY
def test_dead_latents_take_the_directions_of_rows(name: str, tmp_path: Path) -> None:
    trainer = trained(name, tmp_path)
    state, rows = trainer.state, rows_of(trainer)
    before = {key: value.clone() for key, value in state.params.items()}
    assert resample(*of(trainer), state, mask(DEAD), rows.upcoming(), FRACTION) == len(DEAD)
    assert len(set(drawn(state, rows))) == len(DEAD)
    live_F = ~mask(DEAD)
    wanted = {key: row_norms(before[key][live_F]).mean().expand(4) for key in ("W_dec", "W_enc")}
    norms = {key: row_norms(state.params[key][DEAD]) for key in wanted}
    torch.testing.assert_close(norms["W_dec"], wanted["W_dec"])
    if name in SELECTING:
        assert bool((norms["W_enc"] >= FRACTION * wanted["W_enc"] - 1e-6).all())
    else:
        torch.testing.assert_close(norms["W_enc"], FRACTION * wanted["W_enc"])
    for key, value in state.params.items():
        of_latents = value.shape[0] == F
        kept = live_F if of_latents else torch.ones(len(value), dtype=torch.bool)
        assert torch.equal(value[kept], before[key][kept]), key
        if of_latents and value.ndim == 1 and trainer.spec.architecture.has_input_bias:
            assert not value[DEAD].any(), key
    if name == "relu":
        offset_N = state.params["W_enc"][DEAD] @ state.params["b_dec"]
        torch.testing.assert_close(state.params["b_enc"][DEAD], -offset_N)


@EVERY
def test_moments_start_anew_and_those_of_others_do_not(name: str, tmp_path: Path) -> None:
    """The peer assigns through two indices, that is to a copy: its latents stay as they are."""
    trainer = trained(name, tmp_path)
    state, rows = trainer.state, rows_of(trainer)
    state.tokens_since_fired_F.fill_(11)
    state.tokens_since_fired_or_resampled_F.fill_(11)
    moments = {"first": state.moments.first, "second": state.moments.second}
    before = {(kind, key): v.clone() for kind, group in moments.items() for key, v in group.items()}
    old_DD = state.params["W_dec"][DEAD].clone()
    resample(*of(trainer), state, mask(DEAD), rows.upcoming(), FRACTION)
    assert not torch.equal(state.params["W_dec"][DEAD], old_DD)
    live_F = ~mask(DEAD)
    for kind, group in moments.items():
        for key, value in group.items():
            if value.shape[0] == F:
                assert not value[DEAD].any(), (kind, key)
                assert torch.equal(value[live_F], before[kind, key][live_F]), (kind, key)
            else:
                assert torch.equal(value, before[kind, key]), (kind, key)
    assert torch.equal(state.tokens_since_fired_F, torch.full((F,), 11))
    assert torch.equal(state.tokens_since_fired_or_resampled_F, torch.where(live_F, 11, 0))


def test_two_indices_in_a_row_write_to_a_copy() -> None:
    """What the peer does, so that the test above is known to catch it."""
    rows = torch.ones(F, D)
    rows[mask(DEAD)][:2] = 0.0
    assert bool(rows.all())


def test_rows_are_drawn_by_the_square_of_their_loss(tmp_path: Path) -> None:
    trainer = trained("relu", tmp_path)
    form = trainer.form()
    rows = rows_of(trainer, count=40)
    loss_R = rows.upcoming().losses(form)
    f_RF = features_of(form, rows.x_RD)
    error_RD = rows.x_RD - f_RF @ form.W_dec_FO - form.b_dec_O
    torch.testing.assert_close(loss_R, error_RD.double().square().sum(1))
    found = torch.zeros(40, dtype=torch.float64)
    for seed in range(300):
        state = trained_copy(trainer)
        resample(*of(trainer), state, mask(DEAD[:1]), rows.upcoming(seed), FRACTION)
        direction_D = state.params["W_dec"][DEAD[0]]
        centred_RD = rows.x_RD - state.params["b_dec"]
        found[int((centred_RD @ direction_D / row_norms(centred_RD)).argmax())] += 1 / 300
    share_R = loss_R.square() / loss_R.square().sum()
    assert float((found - share_R).abs().sum()) / 2 < 0.15
    uniform = torch.full_like(share_R, 1 / 40)
    assert float((uniform - share_R).abs().sum()) / 2 > 0.25


def trained_copy(trainer: Trainer) -> TrainerState:
    tensors = {name: value.clone() for name, value in trainer.state.tensors().items()}
    return TrainerState.from_tensors(tensors, trainer.state.step, trainer.state.tokens)


def test_draws_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    trainer = trained("relu", tmp_path)
    rows = rows_of(trainer)

    def after(seed: int, step: int) -> Tensor:
        state = trained_copy(trainer)
        state.step = step
        resample(*of(trainer), state, mask(DEAD), rows.upcoming(seed), FRACTION)
        return state.params["W_dec"]

    assert torch.equal(after(1, 5), after(1, 5))
    assert not torch.equal(after(1, 5), after(2, 5))
    assert not torch.equal(after(1, 5), after(1, 6))


def test_the_size_of_blocks_does_not_matter(tmp_path: Path) -> None:
    trainer = trained("relu", tmp_path)
    rows = rows_of(trainer)
    found: list[Tensor] = []
    for block in (7, 50):
        state = trained_copy(trainer)
        blocks = Rows(rows.x_RD, block).upcoming()
        resample(*of(trainer), state, mask(DEAD), blocks, FRACTION)
        found.append(state.params["W_enc"])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("name", ["relu", "jumprelu"])
def test_where_every_latent_is_dead_all_are_resampled(name: str, tmp_path: Path) -> None:
    trainer = trained(name, tmp_path)
    everything = mask(list(range(F)))
    rows = rows_of(trainer, count=F // 2)
    assert resample(*of(trainer), trainer.state, everything, rows.upcoming(), FRACTION) == F
    assert trainer.state.finite()


def test_without_dead_latents_nothing_happens(tmp_path: Path) -> None:
    trainer = trained("relu", tmp_path)
    before = trained_copy(trainer).tensors()
    rows = rows_of(trainer)
    assert resample(*of(trainer), trainer.state, mask([]), rows.upcoming(), FRACTION) == 0
    for name, value in trainer.state.tensors().items():
        assert torch.equal(value, before[name]), name


def resampling(name: str, **changes: object) -> TrainSpec:
    """Steps 8 and 12 of 20 resample; latents count as dead after two steps."""
    fields: dict[str, Any] = {
        "tokens": 20 * 64,
        "dead_window_tokens": 128,
        "resample": {"steps": [8, 12], "rows": 256},
        "optimizer": {"lr": 0.05},
        "log_every_steps": 1,
    }
    return tiny_spec(name, **(fields | changes))


@EVERY
def test_a_run_resamples_at_its_steps_and_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    setup = tiny_setup(
        resampling(name, **{name: {**TINY.get(name, {}), **FEW_FIRE.get(name, PENALISED)}})
    )
    whole = Trainer.start(setup)
    counts = metric_by_step(run_all(whole, FolderSink(tmp_path / "whole")))
    assert set(counts) == {8, 12}
    assert counts[8] > 0
    run_until(Trainer.start(setup), FolderSink(tmp_path / "first"), 10)
    resumed = Trainer.resume(setup, tmp_path / "first" / "10")
    run_all(resumed, FolderSink(tmp_path / "second"))
    for key, value in whole.state.tensors().items():
        assert torch.equal(value, resumed.state.tensors()[key]), key


@pytest.mark.parametrize("form", FORMS)
@EVERY
def test_transcoders_and_crosscoders_resample_alike(name: str, form: str, tmp_path: Path) -> None:
    spec = form_spec(name, form, tokens=4 * 64, resample={"steps": [2], "rows": 64})
    setup = form_setup(spec, form)
    trainer = Trainer.start(setup)
    trainer.state.tokens_since_fired_or_resampled_F[DEAD] = 10**9
    trainer.state.params[BIAS.get(name, "b_enc")][DEAD] = -1e3
    counts = metric_by_step(run_all(trainer, FolderSink(tmp_path)))
    assert counts[max(counts)] >= len(DEAD)
    assert float(trainer.state.params[BIAS.get(name, "b_enc")][DEAD].min()) > -100
    assert trainer.state.finite()


BIAS = {"gated": "b_gate"}
FEW_FIRE: dict[str, dict[str, Any]] = {
    "topk": {"k": 1, "auxk_coefficient": 0.0},
    "batchtopk": {"k": 1, "auxk_coefficient": 0.0},
    "matryoshka": {"k": 1, "k_initial": 1, "auxk_coefficient": 0.0},
    "jumprelu": {"initial_l0": 0.2},
    "relu": {"sparsity_coefficient": 30.0, "auxk_coefficient": 0.0, "sparsity_warmup_fraction": 0},
    "gated": {"sparsity_coefficient": 100.0, "sparsity_warmup_fraction": 0},
}
"""So that latents die within eight steps."""
PENALISED: dict[str, Any] = {"sparsity_coefficient": 100.0, "auxk_coefficient": 0.0}
"""The same for an architecture that has no entry of its own."""


def metric_by_step(events: list[Any]) -> dict[int, float]:
    return {
        event.step: event.values["resampled"]
        for event in events
        if "resampled" in getattr(event, "values", {})
    }


def test_resampling_brings_latents_back(tmp_path: Path) -> None:
    """Half of the latents are killed by their biases; what they could explain is explained again
    only where they are resampled."""
    fields = {"tokens": 300 * 64, "optimizer": {"lr": 3e-3}, "relu": {"sparsity_coefficient": 0.2}}
    fvu: dict[str, float] = {}
    dead: dict[str, float] = {}
    for name, steps in (("without", [299]), ("with", [20])):
        spec = resampling("relu", **fields, resample={"steps": steps, "rows": 256})
        trainer = Trainer.start(tiny_setup(spec))
        trainer.state.params["b_enc"][2:] = -100.0
        events = run_all(trainer, FolderSink(tmp_path / name))
        fvu[name], dead[name] = metric(events, "fvu")[290], metric(events, "dead")[290]
    assert dead["without"] == F - 2
    assert dead["with"] < F / 4
    assert fvu["with"] < fvu["without"] / 3


@pytest.mark.parametrize(
    ("wanted", "field", "message"),
    [
        ({"steps": [10]}, "train.resample.steps", "has none before the run's last, 10"),
        ({}, "train.resample.steps", "has none before"),
        ({"steps": [0]}, "train.resample.steps.0", "greater than or equal to 1"),
        ({"steps": [5], "fraction": 0}, "train.resample.fraction", "greater than 0"),
    ],
)
def test_what_cannot_be_resampled_is_refused(
    wanted: dict[str, object], field: str, message: str
) -> None:
    task = {"dataset": "d", "model": "m", "d_sae": 64, "tokens": 640, "batch_size": 64}
    with pytest.raises(SpecError, match=message) as caught:
        TrainSpec.parse({**task, "relu": {}, "resample": wanted}, "train")
    assert caught.value.field == field


def test_the_rows_that_were_drawn_do_not_keep_their_blocks() -> None:
    blocks: list[weakref.ref[torch.UntypedStorage]] = []
    alive: list[int] = []

    def read(position: int, size: int) -> Batch:
        alive.append(sum(block() is not None for block in blocks))
        x_BD = torch.full((size, D), float(position))
        blocks.append(weakref.ref(x_BD.untyped_storage()))
        return Batch(x_BD, x_BD)

    rows = Upcoming(read, 0, 80, 16, 0).rows_at(torch.tensor([70, 1, 20, 40, 55]))
    assert torch.equal(rows.x_BD[:, 0], torch.tensor([64.0, 0.0, 16.0, 32.0, 48.0]))
    assert alive == [0, 1, 1, 1, 1]
