"""The train runner on planted features, with real trainer, export and registry."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from tests.fakes.workshop import BATCH, STEPS, Workshop

from saeserve.core.export.format import load_model
from saeserve.core.training import calibrating
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Result
from saeserve.registry.models import ModelRegistry
from saeserve.registry.speeds import SpeedBook
from saeserve.registry.version import ModelVersion
from saeserve.worker.order import ExitCode

SPEC = {"dataset": "planted", "model": "m", "topk": {"k": 4}, "d_sae": 32, "tokens": 4096}


@pytest.fixture(autouse=True)
def data(shop: Workshop) -> None:
    shop.planted()


def weights(version: ModelVersion) -> bytes:
    return (version.folder / "model.safetensors").read_bytes()


def test_a_run_publishes_a_model_with_its_figures(shop: Workshop) -> None:
    assert shop.train("j-1") is ExitCode.FINISHED
    output = shop.output("j-1")
    assert output.model == "models/m/versions/1"
    expected = {"fvu", "l0", "dead_fraction", "silent_on_heldout", "train_tokens_per_second"}
    assert expected <= set(output.metrics)
    assert 0 < output.metrics["train_data_wait_fraction"] < 1
    assert all(math.isfinite(value) for value in output.metrics.values())
    version = shop.model("m")
    lineage = version.config.lineage
    assert (lineage.dataset, lineage.job, lineage.source) == ("planted", "j-1", "activations")
    assert lineage.metrics["fvu"] == output.metrics["fvu"] < 1
    model = load_model(version.folder)
    assert float(model.frequency.sum()) == pytest.approx(output.metrics["l0"], rel=1e-4)


@pytest.mark.parametrize("architecture", [{"relu": {"decoder_norm": 0.5}}, {"batchtopk": {}}])
def test_how_a_target_was_met_is_among_the_figures(
    shop: Workshop, architecture: dict[str, Any]
) -> None:
    """On the rows that `l0` is of; short of the target there is a warning too."""
    shop.train("j-1", topk=None, target_l0=5.0, optimizer={"lr": 1e-5}, **architecture)
    metrics = shop.output("j-1").metrics
    assert metrics["l0_miss"] == pytest.approx(metrics["l0"] / 5 - 1, rel=1e-4)
    assert {"l0_moved", "fvu_raised"} < set(metrics)
    assert shop.model("m").config.lineage.metrics["l0_miss"] == metrics["l0_miss"]
    if "relu" in architecture:
        assert metrics["l0_miss"] > 0.05
        assert metrics["l0_moved"] == 0
        assert "L0_MISSED" in codes(shop, "j-1")


def test_figures_come_from_rows_on_which_no_threshold_was_shifted(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.train("j-1", topk=None, batchtopk={"k": 4})
    monkeypatch.setattr(calibrating, "LEAST_ROWS", 16)
    shop.train("j-2", topk=None, batchtopk={"k": 4}, model="m2")
    whole, half = (shop.output(job).metrics["heldout_rows"] for job in ("j-1", "j-2"))
    assert half == pytest.approx(whole / 2, abs=2)


def test_without_held_out_rows_a_run_is_judged_on_training_rows(shop: Workshop) -> None:
    shop.train("j-1", topk=None, relu={}, target_l0=5.0, eval_rows=0, optimizer={"lr": 1e-5})
    output = shop.output("j-1")
    assert {"l0_miss", "l0_moved", "fvu_raised"} < set(output.metrics)
    assert "fvu" not in output.metrics
    [told] = [w for w in output.warnings if w.code in ("FVU_HIGH", "FVU_WORSE_THAN_MEAN")]
    assert "on training rows" in told.message
    assert {told.code, "NOTHING_HELD_OUT"} <= codes(shop, "j-1")


def test_a_rate_that_destroys_the_model_is_warned_of_wherever_its_figures_stand(
    shop: Workshop,
) -> None:
    """In the job's events and output, and in the lineage of the published version."""
    shop.train("j-1", optimizer={"lr": 100.0})
    output, lineage = shop.output("j-1"), shop.model("m").config.lineage
    assert output.metrics["fvu"] >= 1
    assert "FVU_WORSE_THAN_MEAN" in {warning.code for warning in output.warnings}
    assert [(w.code, w.message) for w in output.warnings] == [
        (w.code, w.message) for w in lineage.warnings
    ]
    assert {w.code for w in output.warnings} <= codes(shop, "j-1")
    assert all(warning.member == "" for warning in output.warnings)


def codes(shop: Workshop, job: str) -> set[str]:
    """Codes of the warnings among the job's events."""
    return {event.data["code"] for event in shop.events(job) if event.type == "warning"}


def test_its_speed_is_recorded_once_it_is_known(shop: Workshop) -> None:
    book = SpeedBook(shop.bench.ledger.store)
    shop.train("j-0")
    shop.machine = "Zen, 1 thread"
    shop.train("j-1", log_every_steps=STEPS)
    assert book.records(shop.machine, "topk") == ()
    shop.train("j-2")
    [record] = book.records(shop.machine, "topk")
    assert (record.job, record.shape.d_sae, record.shape.batch_size) == ("j-2", 32, BATCH)
    reports = [e.data["metrics"] for e in shop.events("j-2") if e.type == "metrics"]
    rates = [each["tokens_per_second"] for each in reports[1:]]
    assert record.seconds_per_step == pytest.approx(BATCH / statistics.median(rates))


def test_a_speed_that_cannot_be_recorded_costs_the_job_nothing(shop: Workshop) -> None:
    shop.machine = "Zen, 1 thread"
    shop.bench.ledger.store.path("speeds").write_text("in the way")
    assert shop.train("j-1") is ExitCode.FINISHED


def test_a_lost_device_gives_the_job_back_instead_of_failing_it(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shop.bench.submit("j-1", resource_class="gpu", resolved_spec={"train": SPEC})
    assert shop.run("j-1") is ExitCode.UNFIT
    assert shop.bench.ledger.failure("j-1", 1) is None


def test_its_events_tell_steps_checkpoints_and_progress(shop: Workshop) -> None:
    shop.train("j-1")
    events = shop.events("j-1")
    assert [e.step for e in events if e.type == "checkpoint"] == [10, 20, 30, 40]
    metrics = [e for e in events if e.type == "metrics"]
    assert [e.step for e in metrics] == list(range(5, STEPS + 1, 5))
    assert metrics[-1].data["total_steps"] == STEPS
    assert metrics[-1].data["metrics"]["tokens"] == STEPS * BATCH


def test_a_stopped_run_is_resumed_to_the_same_bits(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.train("j-1", model="undisturbed")
    with monkeypatch.context() as patch:
        shop.stop_at(15, patch)
        assert shop.train("j-2", model="disturbed") is ExitCode.STOPPED
    shop.stop.clear()
    assert shop.run("j-2") is ExitCode.FINISHED
    started = shop.events("j-2", 2)[0]
    assert (started.type, started.data) == ("attempt_started", {"resume_step": 15})
    assert weights(shop.model("disturbed")) == weights(shop.model("undisturbed"))


def test_an_attempt_that_published_and_died_publishes_no_second_version(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Ledger, result: Result) -> Result:
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", die)
        assert shop.train("j-1") is ExitCode.FAILED
    assert shop.run("j-1") is ExitCode.FINISHED
    assert shop.models.keys("m") == [("m", 1)]


def test_the_export_of_an_attempt_goes_once_it_is_published(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.train("j-1")
    assert not (shop.bench.folder("j-1", 1) / "export").exists()
    assert len(list(shop.bench.folder("j-1", 1).glob("checkpoints/*"))) == 2

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ModelRegistry, "publish", full)
    assert shop.train("j-2") is ExitCode.FAILED
    assert not (shop.bench.folder("j-2", 1) / "export").exists()


def test_without_held_out_rows_the_model_comes_without_figures(shop: Workshop) -> None:
    assert shop.train("j-1", eval_rows=0) is ExitCode.FINISHED
    assert "fvu" not in shop.output("j-1").metrics
    assert float(load_model(shop.model("m").folder).frequency.sum()) == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dataset": "nowhere"}, "DATASET_NOT_FOUND"),
        ({"source": "resid_post.3"}, "DATA_MISMATCH"),
        ({"topk": {"k": 99}}, "INVALID_SPEC"),
    ],
)
def test_what_cannot_run_fails_with_a_reason(
    shop: Workshop, fields: dict[str, object], code: str
) -> None:
    assert shop.train("j-1", **fields) is ExitCode.FAILED
    failure = shop.failure("j-1")
    assert (failure.code, failure.retryable) == (code, False)


def test_a_checkpoint_without_its_preprocessing_is_told(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        shop.stop_at(15, patch)
        shop.train("j-1")
    shop.stop.clear()
    checkpoint = shop.bench.folder("j-1", 1) / "checkpoints" / "15"
    # Damage that the manifest does not show: the checkpoint was written so.
    manifest = checkpoint / "manifest.json"
    manifest.write_text(manifest.read_text().replace("preprocessing.", "elsewhere."))
    (checkpoint / "preprocessing.safetensors").rename(checkpoint / "elsewhere.safetensors")
    assert shop.run("j-1") is ExitCode.FAILED
    assert shop.failure("j-1", 2).code == "CKPT_CORRUPT"


def test_a_job_trains_more_tokens_from_a_published_model(shop: Workshop) -> None:
    assert shop.train("j-1") is ExitCode.FINISHED
    first = shop.output("j-1").metrics
    assert shop.train("j-2", init_from="m", tokens=20 * BATCH, seed=3) is ExitCode.FINISHED
    second = shop.output("j-2")
    assert second.model == "models/m/versions/2"
    lineage = shop.model("m@2").config.lineage
    assert lineage.spec["init_from"] == "m"
    told = [event.data for event in shop.events("j-2") if event.type == "metrics"]
    start = [event.data for event in shop.events("j-1") if event.type == "metrics"]
    assert told[0]["metrics"]["fvu"] < (start[0]["metrics"]["fvu"] + first["fvu"]) / 2


def test_a_continued_job_resumes_without_the_model(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.train("j-1")
    shop.train("j-2", model="undisturbed", init_from="m@1")
    with monkeypatch.context() as patch:
        shop.stop_at(15, patch)
        assert shop.train("j-3", model="disturbed", init_from="m@1") is ExitCode.STOPPED
    shop.stop.clear()
    assert shop.run("j-3") is ExitCode.FINISHED
    assert weights(shop.model("disturbed")) == weights(shop.model("undisturbed"))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"init_from": "nobody"}, "MODEL_NOT_FOUND"),
        ({"init_from": "m", "d_sae": 48}, "INVALID_SPEC"),
        ({"init_from": "m", "topk": None, "batchtopk": {"k": 4}}, "INVALID_SPEC"),
    ],
)
def test_a_model_that_cannot_be_continued_is_told(
    shop: Workshop, fields: dict[str, object], code: str
) -> None:
    shop.train("j-1")
    assert shop.train("j-2", **fields) is ExitCode.FAILED
    assert (shop.failure("j-2").code, shop.failure("j-2").retryable) == (code, False)
