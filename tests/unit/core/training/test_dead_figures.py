"""Dead means that a latent did not fire. Resampled latents fire, and are dead until they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.forms import DIMS, FORMS, form_setup, form_spec
from tests.fakes.training import TINY, F, FolderSink, features_of, run_all, tiny_setup, tiny_spec
from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import Batch, StepOutput
from saeserve.core.architectures.registry import ARCHITECTURES, architecture_of
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.events import MetricsReported
from saeserve.core.training.resampling import Upcoming, resample
from saeserve.core.training.trainer import Trainer

EVERY = pytest.mark.parametrize("name", sorted(ARCHITECTURES))
STEPS, BATCH, WINDOW = 100, 64, 10 * 64
SPARSE: dict[str, dict[str, Any]] = {
    "topk": {"k": 1},
    "batchtopk": {"k": 1},
    "matryoshka": {"k": 1, "k_initial": None, "sort_by_frequency": False},
    "jumprelu": {"initial_l0": 0.2},
    "relu": {"sparsity_coefficient": 20.0, "sparsity_warmup_fraction": 0},
    "gated": {"sparsity_coefficient": 30.0, "sparsity_warmup_fraction": 0},
}
"""So sparse that latents die."""


class Counted:
    """An architecture, and the rows that each latent fired in at each step."""

    def __init__(self, inner: Architecture[Any]) -> None:
        self.inner = inner
        self.fired: list[Tensor] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def gradients(self, *arguments: Any) -> StepOutput:  # noqa: ANN401 - those of the architecture
        output = self.inner.gradients(*arguments)
        self.fired.append(output.stats.fired_F.clone())
        return output


def counted(name: str, steps: list[int], **fields: object) -> tuple[Trainer, Counted]:
    """A run in which most latents are killed at the start, resampled after these steps."""
    settings = {**TINY.get(name, {}), **SPARSE[name], **fields}
    spec = tiny_spec(
        name,
        tokens=STEPS * BATCH,
        dead_window_tokens=WINDOW,
        resample={"steps": steps, "rows": 512} if steps else None,
        **{name: settings},
    )
    trainer = Trainer.start(tiny_setup(spec))
    bias = "b_gate" if name == "gated" else "b_enc"
    trainer.state.params[bias][F // 4 :] = -50.0
    counts = Counted(ARCHITECTURES[name])
    for part in (trainer, trainer.stepper):
        vars(part)["_architecture"] = counts
    return trainer, counts


def silent(fired: list[Tensor], tokens: int) -> int:
    """Latents that fired in none of the last batches that hold so many tokens."""
    batches = -(-tokens // BATCH)
    if len(fired) < batches:
        return 0
    return int((torch.stack(fired[-batches:]).sum(0) == 0).sum())


@pytest.mark.parametrize("auxk", [0.0, 1 / 32])
@EVERY
def test_dead_figures_are_what_one_counts_oneself(name: str, auxk: float, tmp_path: Path) -> None:
    """Resampling at 60 % of the run, within the window of `dead_fraction`, alters neither."""
    trainer, counts = counted(name, [60, 75], auxk_coefficient=auxk)
    resampled, seen = 0.0, 0
    for event in trainer.run(FolderSink(tmp_path), lambda: False):
        if isinstance(event, MetricsReported):
            assert event.values["dead"] == silent(counts.fired, WINDOW), event.step
            resampled += event.values.get("resampled", 0)
            seen += 1
    assert (seen, len(counts.fired)) == (STEPS, STEPS)
    assert resampled > 0
    assert trainer.dead_fraction() == silent(counts.fired, STEPS * BATCH // 2) / F


@pytest.mark.parametrize("auxk", [0.0, 1 / 32])
@EVERY
def test_resampling_lowers_the_share_of_dead_latents(
    name: str, auxk: float, tmp_path: Path
) -> None:
    """Also beside AuxK, which leaves a resampled latent alone for a window."""
    fractions: list[float] = []
    for steps in ([], [20, 40]):
        trainer, _ = counted(name, steps, auxk_coefficient=auxk)
        run_all(trainer, FolderSink(tmp_path / str(len(steps))))
        fractions.append(trainer.dead_fraction())
    without, resampled = fractions
    assert without >= 0.5
    assert resampled < 0.6 * without


class Remembered(Upcoming):
    """Knows which rows were drawn, in the order of the latents that took them."""

    drawn: Batch

    def rows_at(self, places_N: Tensor) -> Batch:
        self.drawn = super().rows_at(places_N)
        return self.drawn


def trained(name: str, form: str, folder: Path) -> Trainer:
    """Some steps in: the evaluation form's threshold is known."""
    if form == "autoencoder":
        setup = tiny_setup(tiny_spec(name, tokens=10 * BATCH))
    else:
        setup = form_setup(form_spec(name, form, tokens=10 * BATCH), form)
    trainer = Trainer.start(setup)
    run_all(trainer, FolderSink(folder))
    return trainer


def resampled(trainer: Trainer, dead: Tensor) -> tuple[Tensor, Batch]:
    """The latents that were resampled, and the row that each has taken."""
    dead_F = torch.zeros(F, dtype=torch.bool)
    dead_F[dead] = True
    upcoming = Remembered(trainer.feed.read, 2**20, 4 * F, 32, seed=3)
    architecture, spec = architecture_of(trainer.spec), trainer.spec.architecture
    assert resample(architecture, spec, trainer.state, dead_F, upcoming, 0.2) == len(dead)
    return dead_F.nonzero().squeeze(1), upcoming.drawn


def own(trainer: Trainer, dead_N: Tensor, rows: Batch) -> Tensor:
    """What each resampled latent has on its own row, by the evaluation form."""
    return features_of(trainer.form(), rows.x_BD)[range(len(dead_N)), dead_N]


@pytest.mark.parametrize("dead", [[5], list(range(3, F, 2)), list(range(1, F)), list(range(F))])
@pytest.mark.parametrize("form", ["autoencoder", *FORMS])
@EVERY
def test_each_resampled_latent_fires_on_its_own_row(
    name: str, form: str, dead: list[int], tmp_path: Path
) -> None:
    """Whether few are resampled or all, so that they compete with each other."""
    trainer = trained(name, form, tmp_path)
    dead_N, rows = resampled(trainer, torch.tensor(dead))
    assert bool((own(trainer, dead_N, rows) > 0).all())


@EVERY
def test_it_does_where_b_dec_is_far_from_the_rows(name: str, tmp_path: Path) -> None:
    """As of rows that were not centred, where some encoders do not subtract b_dec."""
    for sign in (-1.0, 1.0):
        trainer = trained(name, "autoencoder", tmp_path / str(sign))
        trainer.state.params["b_dec"] += sign * 8.0
        dead_N, rows = resampled(trainer, torch.arange(0, F, 3))
        assert bool((own(trainer, dead_N, rows) > 0).all())


@EVERY
def test_it_does_where_rows_differ_in_length_by_orders(name: str, tmp_path: Path) -> None:
    trainer = trained(name, "autoencoder", tmp_path)
    read = trainer.feed.read

    def uneven(position: int, size: int) -> Batch:
        length_B = torch.logspace(-2, 2, size)[:, None]
        x_BD = read(position, size).x_BD * length_B
        return Batch(x_BD, x_BD)

    trainer.feed.read = uneven
    dead_N, rows = resampled(trainer, torch.arange(0, F, 2))
    assert bool((own(trainer, dead_N, rows) > 0).all())


@EVERY
def test_rows_without_a_direction_are_not_drawn(name: str, tmp_path: Path) -> None:
    """A row that equals b_dec cannot say where a latent should point, however large its loss is."""
    trainer = trained(name, "autoencoder", tmp_path)
    for bias in {"b_enc", "b_gate", "b_mag"} & trainer.state.params.keys():
        trainer.state.params[bias] += 30.0
    read = trainer.feed.read

    def partly_equal(position: int, size: int) -> Batch:
        x_BD = read(position, size).x_BD.clone()
        x_BD[::2] = trainer.state.params["b_dec"]
        return Batch(x_BD, x_BD)

    trainer.feed.read = partly_equal
    _, rows = resampled(trainer, torch.arange(0, F, 3))
    assert bool((rows.x_BD != trainer.state.params["b_dec"]).any(dim=1).all())


def test_a_transcoder_has_a_bias_of_its_own_for_inputs(tmp_path: Path) -> None:
    trainer = trained("topk", "transcoder", tmp_path)
    dead_N, rows = resampled(trainer, torch.tensor([4, 9]))
    params, d_out = trainer.state.params, DIMS["transcoder"].d_out
    x_ND = rows.x_BD - params["b_pre"]
    cosine_N = torch.cosine_similarity(params["W_enc"][dead_N], x_ND)
    assert float(cosine_N.min()) > 1 - 1e-5
    assert params["W_dec"][dead_N].shape == (2, d_out)


def test_specs_without_resampling_are_counted_alike(tmp_path: Path) -> None:
    spec: TrainSpec = tiny_spec("topk", topk={"k": 1, "k_aux": 8})
    trainer = Trainer.start(tiny_setup(spec))
    run_all(trainer, FolderSink(tmp_path))
    state = trainer.state
    assert torch.equal(state.tokens_since_fired_F, state.tokens_since_fired_or_resampled_F)
