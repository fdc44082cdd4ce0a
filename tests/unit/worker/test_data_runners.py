"""Harvest, ingest and evaluate runners on small data and a tiny language model."""

from __future__ import annotations

import hashlib
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fakes.tiny_models import WORDS, save_model, tiny_llama
from tests.fakes.workshop import Workshop

from saeserve.core.export.format import load_model
from saeserve.registry.dataset import DatasetState, UploadHeader
from saeserve.worker.order import ExitCode

SITE = {"hook": "resid_post", "layer": 1}


def upload(shop: Workshop, name: str, rows: np.ndarray[Any, Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, rows)
    data = buffer.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    header = UploadHeader(dataset=name, file_name="x.npy", size_bytes=len(data), sha256=sha256)
    with shop.bench.datasets.begin_upload(header) as writer:
        writer.add(0, data, zlib.crc32(data))
        writer.finish()


def rows_of(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32)


def test_ingest_makes_an_upload_ready(shop: Workshop) -> None:
    upload(shop, "rows", rows_of(3000))
    assert shop.submit("j-1", "ingest", {"dataset": "rows"}) is ExitCode.FINISHED
    output = shop.output("j-1")
    assert (output.dataset, output.metrics["rows"]) == ("rows", 3000)
    manifest = shop.bench.datasets.get("rows").manifest
    assert manifest is not None
    assert (manifest.job, manifest.rows, manifest.sources[0].d) == ("j-1", 3000, 8)


def test_held_out_rows_without_variance_are_warned_of_in_training_and_evaluation(
    shop: Workshop,
) -> None:
    """They have no FVU, so no figure can show that the model is bad."""
    rows = rows_of(1024)
    for value in range(1, 40):  # a run's content decides whether it is the one that is held out
        rows[:256] = value
        name = f"rows-{value}"
        upload(shop, name, rows)
        shop.submit(name, "ingest", {"dataset": name, "heldout_fraction": 1e-6})
        if shop.bench.datasets.manifest(name).documents[0].split == "heldout":
            break
    else:
        pytest.fail("the equal rows were never held out")
    assert shop.train("j-1", dataset=name) is ExitCode.FINISHED
    output = shop.output("j-1")
    assert "fvu" not in output.metrics
    assert "FVU_UNDEFINED" in {warning.code for warning in output.warnings}
    evaluate = {"model": "m@1", "dataset": name}
    assert shop.submit("j-2", "evaluate", evaluate) is ExitCode.FINISHED
    assert "fvu" not in shop.output("j-2").metrics
    codes = {event.data["code"] for event in shop.events("j-2") if event.type == "warning"}
    assert "FVU_UNDEFINED" in codes


def test_ingest_names_the_row_that_is_not_finite(shop: Workshop) -> None:
    rows = rows_of(600)
    rows[417, 3] = np.nan
    upload(shop, "rows", rows)
    assert shop.submit("j-1", "ingest", {"dataset": "rows"}) is ExitCode.FAILED
    failure = shop.failure("j-1")
    assert (failure.code, failure.retryable) == ("BAD_DATA", False)
    assert "x.npy, row 417" in failure.message


def test_an_attempt_after_the_commit_answers_the_same(shop: Workshop) -> None:
    upload(shop, "rows", rows_of(600))
    shop.submit("j-1", "ingest", {"dataset": "rows"})
    first = shop.output("j-1")
    shop.bench.ledger.store.remove("jobs/j-1/result.json")
    shards = shop.bench.datasets.get("rows").folder / "shards"
    before = {path: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert shop.run("j-1") is ExitCode.FINISHED
    assert shop.output("j-1") == first
    assert {path: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def test_a_stopped_ingest_goes_on(shop: Workshop) -> None:
    upload(shop, "rows", rows_of(600))
    shop.stop.set()
    assert shop.submit("j-1", "ingest", {"dataset": "rows"}) is ExitCode.STOPPED
    assert shop.bench.datasets.get("rows").state is DatasetState.PENDING
    shop.stop.clear()
    assert shop.run("j-1") is ExitCode.FINISHED


@pytest.fixture
def harvested(shop: Workshop, tmp_path: Path) -> Workshop:
    root = tmp_path / "root"
    (root / "lm").mkdir(parents=True)
    save_model(tiny_llama(), root / "lm")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 20)) for _ in range(120)]
    (root / "text.txt").write_text("\n".join(lines))
    shop.roots = {"r": root}
    spec = {
        "dataset": "acts",
        "language_model": {"path": "r:lm"},
        "texts": [{"path": "r:text.txt", "format": "lines"}],
        "sites": [SITE],
        "context_length": 16,
        "dtype": "float32",
        "heldout_fraction": 0.3,
    }
    assert shop.submit("h-1", "harvest", spec) is ExitCode.FINISHED
    return shop


def test_few_documents_that_miss_the_heldout_fraction_are_told(
    harvested: Workshop, tmp_path: Path
) -> None:
    words = " ".join(WORDS[:40])
    (tmp_path / "root" / "two.txt").write_text(f"{words} {words}\n{words}\n")
    spec = {
        "dataset": "two",
        "language_model": {"path": "r:lm"},
        "texts": [{"path": "r:two.txt", "format": "lines"}],
        "sites": [SITE],
        "context_length": 16,
    }
    assert harvested.output("h-1").warnings == ()
    assert harvested.submit("h-2", "harvest", spec) is ExitCode.FINISHED
    (warning,) = harvested.output("h-2").warnings
    assert warning.code == "HELDOUT_MISSED"
    assert "33.3% of the rows are held out where heldout_fraction asks for 10.0%" in warning.message


def test_harvest_then_train_then_evaluate(harvested: Workshop) -> None:
    assert harvested.output("h-1").dataset == "acts"
    progress = [e.data for e in harvested.events("h-1") if e.type == "metrics"]
    assert progress[-1]["metrics"]["rows"] == progress[-1]["total_steps"] == 2400
    assert progress[-1]["unit"] == "rows"
    assert harvested.train("j-1", dataset="acts", topk={"k": 1}, d_sae=256) is ExitCode.FINISHED
    spec = {
        "model": "m",
        "dataset": "acts",
        "loss_recovered": {"max_tokens": 300, "batch_sequences": 4},
        "context_features": 3,
        "contexts_per_feature": 2,
    }
    assert harvested.submit("e-1", "evaluate", spec) is ExitCode.FINISHED
    report = harvested.output("e-1").evaluation
    assert report is not None
    check_figures(report["metrics"])
    assert sum(entry["latents"] for entry in report["density"]) <= 256
    check_features(report["features"])


def test_a_report_lists_every_figure_with_what_was_counted(harvested: Workshop) -> None:
    harvested.train("j-1", dataset="acts", topk={"k": 2}, d_sae=256)
    spec = {"model": "m", "dataset": "acts", "loss_recovered": {"max_tokens": 300}, "seed": 3}
    assert harvested.submit("e-1", "evaluate", spec) is ExitCode.FINISHED
    report = harvested.output("e-1").evaluation
    assert report is not None
    assert (report["model"], report["dataset"]) == ("models/m/versions/1", "acts")
    found = {result["name"]: result for result in report["results"] if not result["stratum"]}
    for name in ("fvu", "l0", "ce_clean", "ce_sae", "ce_mean", "ce_zero", "kl_nats"):
        assert found[name]["value"] == pytest.approx(report["metrics"][name], rel=1e-6)
    for name in ("cosine", "ce_delta_pca_nats", "kl_random_nats", "loss_recovered_mean_random"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert found["baseline_k"]["value"] == 2
    assert found["ce_sae"]["n"] == report["metrics"]["spliced_positions"]
    assert {result["seed"] for result in report["results"]} == {3}
    assert {result["stratum"] for result in report["results"]} >= {"", "positions 1-7"}


def logged(shop: Workshop, job: str) -> str:
    return " ".join(str(e.data["message"]) for e in shop.events(job) if e.type == "log")


def test_models_share_their_passes_and_what_was_found_is_kept(harvested: Workshop) -> None:
    for job, model, k in (("j-1", "m", 2), ("j-2", "n", 4)):
        harvested.train(job, dataset="acts", model=model, topk={"k": k})
    spliced = {"max_tokens": 300}
    alone = {"model": "n", "dataset": "acts", "loss_recovered": spliced}
    harvested.submit("e-1", "evaluate", alone)
    both = alone | {"model": "m", "models": ["n"]}
    assert harvested.submit("e-2", "evaluate", both) is ExitCode.FINISHED
    result = harvested.bench.ledger.result("e-2")
    assert result is not None
    reports = [output.evaluation for output in result.outputs]
    assert [report and report["model"] for report in reports] == [
        "models/m/versions/1", "models/n/versions/1",
    ]  # fmt: skip
    assert reports[1] == harvested.output("e-1").evaluation
    assert "models/n/versions/1 was evaluated before" in logged(harvested, "e-2")
    assert "arms of an earlier evaluation: mean, zero" in logged(harvested, "e-2")
    alone_again = {**alone, "model": "m", "seed": 1}
    harvested.submit("e-3", "evaluate", alone_again)
    assert "was evaluated before" not in logged(harvested, "e-3")


def test_kept_arms_are_those_of_the_data_and_language_model(harvested: Workshop) -> None:
    harvested.train("j-1", dataset="acts", topk={"k": 2})
    spec = {"model": "m", "dataset": "acts", "loss_recovered": {"max_tokens": 300}}
    harvested.submit("e-1", "evaluate", spec)
    config = next((harvested.roots["r"] / "lm").glob("config.json"))
    config.write_text(config.read_text() + " ")
    harvested.submit("e-2", "evaluate", spec)
    assert "earlier evaluation" not in logged(harvested, "e-2")
    assert "evaluated before" not in logged(harvested, "e-2")
    assert harvested.output("e-2").evaluation == harvested.output("e-1").evaluation


def test_arms_that_are_not_asked_for_are_not_run(harvested: Workshop) -> None:
    harvested.train("j-1", dataset="acts", topk={"k": 2})
    spliced = {"max_tokens": 100, "arms": ["zero"]}
    spec = {"model": "m", "dataset": "acts", "loss_recovered": spliced}
    assert harvested.submit("e-1", "evaluate", spec) is ExitCode.FINISHED
    metrics = harvested.output("e-1").metrics
    assert "loss_recovered_zero" in metrics
    assert not {"ce_mean", "ce_pca", "ce_random", "loss_recovered_mean"} & set(metrics)


def test_a_model_that_is_listed_twice_is_refused(harvested: Workshop) -> None:
    harvested.train("j-1", dataset="acts", topk={"k": 2})
    spec = {"model": "m", "models": ["m"], "dataset": "acts"}
    assert harvested.submit("e-1", "evaluate", spec) is ExitCode.FAILED
    assert "m is listed twice" in harvested.failure("e-1").message


def check_figures(metrics: dict[str, float]) -> None:
    expected = {"fvu", "l0", "silent_on_heldout", "dead_fraction", "fvu_with_massive"}
    expected |= {"ce_clean", "ce_sae", "ce_delta_nats", "loss_recovered_mean"}
    expected |= {"loss_recovered_zero", "ce_delta_with_massive_nats", "kl_nats"}
    assert expected <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    difference = metrics["ce_sae"] - metrics["ce_clean"]
    assert metrics["ce_delta_nats"] == pytest.approx(difference)
    assert metrics["kl_nats"] > 0


def check_features(features: list[dict[str, Any]]) -> None:
    assert 0 < len(features) <= 3
    for feature in features:
        contexts = feature["contexts"]
        assert len(contexts) == 2
        assert contexts[0]["activation"] >= contexts[1]["activation"] > 0
        assert all(context["token"] in WORDS for context in contexts)
        assert all("text.txt" in context["document"] for context in contexts)


def test_massive_rows_stand_beside_the_headline(shop: Workshop) -> None:
    shop.planted(massive_rows=20)
    shop.train("j-1")
    shop.submit("e-1", "evaluate", {"model": "m", "dataset": "planted"})
    report = shop.output("e-1").evaluation
    assert report is not None
    metrics = report["metrics"]
    assert metrics["fvu"] == pytest.approx(shop.output("j-1").metrics["fvu"], rel=0.2)
    assert metrics["fvu_with_massive"] != metrics["fvu"]


def test_a_model_knows_the_norm_up_to_which_it_was_trained(shop: Workshop) -> None:
    shop.planted(massive_rows=20)
    manifest = shop.bench.datasets.get("planted").manifest
    assert manifest is not None
    shop.train("j-1")
    shop.train("j-2", model="uncut", preprocess={"norm_cut": 0})
    configs = [load_model(shop.model(name).folder).config for name in ("m", "uncut")]
    bounds = [config.inputs[0].norm_bound for config in configs]
    assert bounds == [5 * manifest.sources[0].median_norm, None]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss_recovered_computes_in_the_type_of_the_harvest(
    dtype: str, harvested: Workshop
) -> None:
    spec = harvested.bench.ledger.submission("h-1").resolved_spec["harvest"]
    changed = {**spec, "dataset": dtype, "compute_dtype": dtype}
    assert harvested.submit("h-2", "harvest", changed) is ExitCode.FINISHED
    harvested.train("j-1", dataset=dtype, topk={"k": 1})
    evaluation = {"model": "m", "dataset": dtype, "loss_recovered": {"max_tokens": 100}}
    assert harvested.submit("e-1", "evaluate", evaluation) is ExitCode.FINISHED
    told = [e.data["message"] for e in harvested.events("e-1") if e.type == "log"]
    assert any(message.endswith(f"which computes in {dtype}") for message in told)


def test_an_evaluation_on_other_rows_says_so(shop: Workshop) -> None:
    shop.planted()
    shop.planted("other")
    shop.train("j-1")
    for job, dataset in (("e-1", "planted"), ("e-2", "other")):
        shop.submit(job, "evaluate", {"model": "m", "dataset": dataset})
    told = [[e.data["code"] for e in shop.events(j) if e.type == "warning"] for j in ("e-1", "e-2")]
    assert told == [[], ["OTHER_DATASET"]]


def test_a_model_of_another_width_is_refused(shop: Workshop) -> None:
    shop.planted()
    shop.planted("narrow", d=8)
    shop.train("j-1")
    spec = {"model": "m", "dataset": "narrow"}
    assert shop.submit("e-1", "evaluate", spec) is ExitCode.FAILED
    assert shop.failure("e-1").code == "DATA_MISMATCH"


def test_splicing_needs_a_language_model(shop: Workshop) -> None:
    shop.planted()
    shop.train("j-1")
    spec: dict[str, Any] = {"model": "m", "dataset": "planted", "loss_recovered": {}}
    assert shop.submit("e-1", "evaluate", spec) is ExitCode.FAILED
    assert "names no language model" in shop.failure("e-1").message
