"""Events, cadence, stopping, resuming, and refusing to go on with what is not finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.fakes.sources import MemorySource, PlantedSource
from tests.fakes.training import (
    TINY,
    D,
    F,
    FolderSink,
    losses,
    metric,
    reconstruction_of,
    run_all,
    run_until,
    tiny_setup,
    tiny_spec,
)

from saeserve.core.architectures.contract import Dimensions
from saeserve.core.ops.norms import row_norms
from saeserve.core.specs.training import DEAD_WINDOW_TOKENS, TrainSpec
from saeserve.core.training.events import (
    CheckpointCommitted,
    Finished,
    MetricsReported,
    Stopped,
    TrainingEvent,
    Warned,
)
from saeserve.core.training.trainer import Trainer
from saeserve.errors import DataMismatchError, DivergedError, SpecError


def steps_of(events: list[TrainingEvent], kind: type[TrainingEvent]) -> list[int]:
    return [event.step for event in events if isinstance(event, kind)]


def test_events_come_at_their_cadence_and_end_with_a_checkpoint(tmp_path: Path) -> None:
    spec = tiny_spec("topk", tokens=10 * 64, log_every_steps=3, checkpoint_every_steps=4)
    sink = FolderSink(tmp_path)
    events = run_all(Trainer.start(tiny_setup(spec)), sink)
    assert steps_of(events, MetricsReported) == [3, 6, 9, 10]
    assert steps_of(events, CheckpointCommitted) == sink.steps == [4, 8, 10]
    assert events[-1] == Finished(10)
    sizes = [event.size_bytes for event in events if isinstance(event, CheckpointCommitted)]
    assert min(sizes) > 3 * 4 * 2 * D * F


def test_metrics_are_counted_as_they_are_defined(tmp_path: Path) -> None:
    """The last report spans one step, whose rows and parameters before it are known."""
    spec = tiny_spec("topk", tokens=6 * 64, log_every_steps=5, optimizer={"lr": 3e-3})
    setup = tiny_setup(spec)
    trainer, sink = Trainer.start(setup), FolderSink(tmp_path)
    run_until(trainer, sink, 5)
    form, counters = trainer.form(), trainer.state.tokens_since_fired_F.clone()
    report = next(e for e in run_all(trainer, sink) if isinstance(e, MetricsReported))
    x = setup.preprocessing.apply(setup.source.batch(5 * 64, 64))
    error = (reconstruction_of(form, x) - x).square().sum()
    values = report.values
    assert (report.step, report.tokens) == (6, 6 * 64)
    spread = (x - x.mean(dim=0)).square().sum()
    assert values["fvu"] == pytest.approx(float(error / spread), rel=1e-4)
    features = (x @ form.W_enc_FD.T + form.b_enc_F).topk(4, dim=1).values
    assert values["l0"] == pytest.approx(float((features > 0).sum() / 64))
    fired = counters != trainer.state.tokens_since_fired_F - 64
    assert values["dead"] == float((torch.where(fired, 0, counters + 64) >= 38).sum())
    assert values["lr"] == pytest.approx(3e-3 * 1 / (0.2 * 6))
    assert values["loss"] == pytest.approx(values["loss_reconstruction"] + values["loss_auxk"])
    assert values["tokens_per_second"] > 0
    assert 0 < values["data_wait_fraction"] < 1
    assert values["grad_norm"] > 0


def test_a_lowered_dead_window_is_told_once(tmp_path: Path) -> None:
    spec = tiny_spec("topk", tokens=20 * 64)
    assert spec.dead_window_tokens == 128
    setup = tiny_setup(spec)
    first = run_until(Trainer.start(setup), FolderSink(tmp_path / "a"), 10)
    assert isinstance(first[0], Warned)
    assert first[0].code == "DEAD_WINDOW_LOWERED"
    assert "128 tokens instead of 10,000,000" in first[0].message
    resumed = run_all(Trainer.resume(setup, tmp_path / "a" / "10"), FolderSink(tmp_path / "b"))
    assert steps_of(resumed, Warned) == []


def test_a_window_that_was_not_lowered_is_no_warning(tmp_path: Path) -> None:
    spec = tiny_spec("topk").model_copy(update={"dead_window_tokens": DEAD_WINDOW_TOKENS})
    events = run_until(Trainer.start(tiny_setup(spec)), FolderSink(tmp_path), 1)
    assert steps_of(events, Warned) == []


def test_another_environment_is_told_on_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = tiny_setup(tiny_spec("topk"))
    run_until(Trainer.start(setup), FolderSink(tmp_path / "a"), 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 77)
    events = run_until(Trainer.resume(setup, tmp_path / "a" / "2"), FolderSink(tmp_path / "b"), 3)
    assert isinstance(events[0], Warned)
    assert (events[0].code, events[0].step) == ("ENVIRONMENT_CHANGED", 2)
    assert "77" in events[0].message


def test_auto_is_what_the_hardware_has_and_a_change_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_hardware(bfloat16: bool) -> None:
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": bfloat16})

    setup = tiny_setup(tiny_spec("topk", encoder_dtype="auto"))
    on_hardware(True)
    started = Trainer.start(setup)
    run_until(started, FolderSink(tmp_path / "a"), 2)
    assert started.effective_spec.encoder_dtype == "bfloat16"
    same = run_until(Trainer.resume(setup, tmp_path / "a" / "2"), FolderSink(tmp_path / "b"), 3)
    assert steps_of(same, Warned) == []
    on_hardware(False)
    elsewhere = Trainer.resume(setup, tmp_path / "a" / "2")
    assert elsewhere.effective_spec.encoder_dtype == "float32"
    told = run_until(elsewhere, FolderSink(tmp_path / "c"), 3)[0]
    assert isinstance(told, Warned)
    assert told.code == "ENVIRONMENT_CHANGED"
    assert "'encoder_dtype': 'bfloat16'" in told.message


def test_stopping_commits_once_and_says_where(tmp_path: Path) -> None:
    setup = tiny_setup(tiny_spec("topk", log_every_steps=100, checkpoint_every_steps=4))
    sink = FolderSink(tmp_path / "a")
    events = run_until(Trainer.start(setup), sink, 6)
    assert [type(event) for event in events[-2:]] == [CheckpointCommitted, Stopped]
    assert (sink.steps, events[-1].step) == ([4, 6], 6)
    again = FolderSink(tmp_path / "b")
    resumed = Trainer.resume(setup, tmp_path / "a" / "6")
    assert run_until(resumed, again, 0) == [Stopped(6)]
    assert again.steps == []


def test_a_finished_run_resumes_to_its_end(tmp_path: Path) -> None:
    setup = tiny_setup(tiny_spec("topk", tokens=2 * 64))
    whole = Trainer.start(setup)
    run_all(whole, FolderSink(tmp_path / "a"))
    resumed = Trainer.resume(setup, tmp_path / "a" / "2")
    assert run_all(resumed, FolderSink(tmp_path / "b")) == [Finished(2)]
    assert torch.equal(resumed.form().W_enc_FD, whole.form().W_enc_FD)
    assert resumed.dead_fraction() == whole.dead_fraction()


def test_resuming_over_an_epochs_end_with_micro_batches_is_exact(tmp_path: Path) -> None:
    rows = PlantedSource(features=24, d=D, active=3, seed=1).batch(0, 100)
    spec = tiny_spec(
        "topk", tokens=10 * 64, micro_batch_size=16, log_every_steps=4, encoder_dtype="bfloat16"
    )
    setup = tiny_setup(spec, source=MemorySource(rows, seed=4))
    whole = Trainer.start(setup)
    expected = run_all(whole, FolderSink(tmp_path / "a"))
    run_until(Trainer.start(setup), FolderSink(tmp_path / "b"), 5)
    resumed = Trainer.resume(setup, tmp_path / "b" / "5")
    events = run_all(resumed, FolderSink(tmp_path / "c"))
    assert losses(events) == losses(expected)[1:]
    for name, value in whole.state.tensors().items():
        assert torch.equal(value, resumed.state.tensors()[name]), name


def test_divergence_is_an_error_at_the_report_and_commits_nothing(tmp_path: Path) -> None:
    spec = tiny_spec("topk", log_every_steps=5, checkpoint_every_steps=10)
    trainer, sink = Trainer.start(tiny_setup(spec)), FolderSink(tmp_path)
    trainer.state.params["W_dec"][3, 4] = math.nan
    with pytest.raises(DivergedError, match="step 5: the loss is nan") as caught:
        run_all(trainer, sink)
    assert caught.value.step == 5
    assert "lr" in caught.value.remedy
    assert sink.steps == []


def test_a_checkpoint_that_is_not_finite_is_never_committed(tmp_path: Path) -> None:
    spec = tiny_spec("topk", log_every_steps=1000, checkpoint_every_steps=1000)
    trainer, sink = Trainer.start(tiny_setup(spec)), FolderSink(tmp_path)
    run_until(trainer, FolderSink(tmp_path / "good"), 2)
    trainer.state.moments.second["b_enc"][0] = math.inf
    with pytest.raises(DivergedError, match="step 3: a parameter or moment is not finite"):
        run_until(trainer, sink, 3)
    assert sink.steps == []


def test_what_does_not_fit_is_refused_before_it_starts() -> None:
    spec = tiny_spec("topk")
    with pytest.raises(DataMismatchError, match="16 wide and the model 5"):
        Trainer.start(tiny_setup(spec, dims=Dimensions(5, 5, F)))
    raw = TrainSpec.parse(spec.to_json() | {"optimizer": {}}, "train")
    with pytest.raises(SpecError, match=r"train\.optimizer\.lr: is not resolved"):
        Trainer.start(tiny_setup(raw))


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    curves = [
        losses(
            run_all(
                Trainer.start(tiny_setup(tiny_spec("topk", tokens=320, seed=seed))),
                FolderSink(tmp_path / str(place)),
            )
        )
        for place, seed in enumerate((1, 1, 2))
    ]
    assert curves[0] == curves[1] != curves[2]


def test_auxk_revives_latents_that_were_made_dead(tmp_path: Path) -> None:
    """Pushed down so that they lose against the others, yet are above zero on some rows: below
    zero on every row, ReLU leaves AuxK nothing to work with, as in the paper.
    """
    dead: dict[float, float] = {}
    for coefficient in (0.0, 1 / 32):
        architecture = {"k": 4, "k_aux": 8, "auxk_coefficient": coefficient}
        spec = tiny_spec("topk", topk=architecture, tokens=400 * 64, log_every_steps=50)
        trainer = Trainer.start(tiny_setup(spec))
        trainer.state.params["b_enc"][:32] -= 2.0 * 0.3
        events = run_all(trainer, FolderSink(tmp_path / str(coefficient)))
        assert metric(events, "dead")[0] > 10
        dead[coefficient] = trainer.dead_fraction()
    assert dead[1 / 32] < dead[0.0] / 2


@pytest.mark.parametrize(
    ("name", "usual"), [("topk", 0.3), ("batchtopk", 0.3), ("matryoshka", 1.0)]
)
def test_the_encoder_starts_at_the_norm_that_the_spec_says(name: str, usual: float) -> None:
    """As it always did where nothing is said, and at the papers' 1 where that is asked for."""
    for fields, wanted in (({}, usual), ({"encoder_norm": 1.0}, 1.0), ({"encoder_norm": 0.5}, 0.5)):
        spec = tiny_spec(name, **{name: {**TINY[name], **fields}})
        params = Trainer.start(tiny_setup(spec)).state.params
        torch.testing.assert_close(row_norms(params["W_enc"]), torch.full((F,), wanted))
        torch.testing.assert_close(params["W_enc"] / wanted, params["W_dec"])
