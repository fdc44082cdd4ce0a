"""What ingest, harvest and evaluate jobs are checked against."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fakes.control import TRAIN, Bench

from saeserve.errors import FailedPrecondition, InvalidInput, NotFound, ServiceError
from saeserve.jobs.states import JobState


def refused(bench: Bench, spec: dict[str, Any]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        bench.submit(spec)
    return caught.value


def harvest(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    spec: dict[str, Any] = {
        "dataset": "acts",
        "language_model": {"path": "files:smol"},
        "texts": [{"path": "files:a.txt"}],
        "sites": [{"layer": 3}],
    }
    return {"harvest": spec | changes}


@pytest.fixture
def sources(bench: Bench) -> Bench:
    """A language model of four layers and a text below the root."""
    folder = bench.root / "smol"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "smol.gguf").write_bytes(b"")
    (folder / "config.json").write_text(
        json.dumps({"hidden_size": 64, "num_hidden_layers": 4, "model_type": "llama"})
    )
    (bench.root / "a.txt").write_text("text")
    return bench


def test_a_harvest_is_planned_by_the_models_header(sources: Bench) -> None:
    sites = [{"layer": 3}, {"layer": 1}]
    _, plan = sources.plan(harvest(max_tokens=1000, sites=sites))
    assert plan.disk_bytes == 1000 * 64 * 2 * 2
    assert plan.steps == 1000


def test_a_harvest_without_a_limit_has_no_known_size(sources: Bench) -> None:
    _, plan = sources.plan(harvest())
    assert plan.disk_bytes == 0
    assert "max_tokens" in plan.notes[0]


def test_the_text_part_of_a_larger_model_counts(sources: Bench) -> None:
    config = {"text_config": {"hidden_size": 32, "num_hidden_layers": 2}, "hidden_size": 7}
    (sources.root / "smol" / "config.json").write_text(json.dumps(config))
    error = refused(sources, harvest(sites=[{"layer": 2}]))
    assert "2 layers" in error.message


def configured(sources: Bench, **fields: object) -> None:
    """Let the language model's config.json say so."""
    config = {"hidden_size": 64, "num_hidden_layers": 4} | fields
    (sources.root / "smol" / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions"])
def test_the_default_context_is_at_most_the_models_positions(sources: Bench, name: str) -> None:
    configured(sources, **{name: 128})
    record = sources.submit(harvest())
    assert record.submission.resolved_spec["harvest"]["context_length"] == 128
    (found,) = (each for each in record.submission.field_sources if each.field == "context_length")
    assert (found.value, found.origin) == ("128", "fitted")
    assert "positions" in found.reason


def test_a_model_with_more_positions_leaves_the_default_context(sources: Bench) -> None:
    configured(sources, max_position_embeddings=2048, rope_scaling={"rope_type": "default"})
    record = sources.submit(harvest())
    assert record.submission.resolved_spec["harvest"]["context_length"] == 256
    (found,) = (each for each in record.submission.field_sources if each.field == "context_length")
    assert (found.value, found.origin) == ("256", "default")


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"context_length": 129}, "context_length"), ({"position_start": 200}, "position_start")],
)
def test_a_given_context_that_the_model_has_not_is_refused(
    sources: Bench, changes: dict[str, Any], field: str
) -> None:
    configured(sources, max_position_embeddings=128)
    error = refused(sources, harvest(**changes))
    assert isinstance(error, InvalidInput)
    assert error.field == f"spec.harvest.{field}"
    assert "128" in error.message


@pytest.mark.parametrize(
    "unknown",
    [
        {},
        {"max_position_embeddings": "many"},
        {"max_position_embeddings": 128, "rope_scaling": {"type": "longrope"}},
        {"max_position_embeddings": 128, "rope_parameters": {"full": {"rope_type": "longrope"}}},
    ],
)
def test_a_context_that_only_a_worker_can_know_is_left_to_it(
    sources: Bench, unknown: dict[str, Any]
) -> None:
    configured(sources, **unknown)
    record = sources.submit(harvest())
    assert "context_length" not in record.submission.resolved_spec["harvest"]
    assert record.submission.unresolved
    (found,) = (each for each in record.submission.field_sources if each.field == "context_length")
    assert (found.value, found.origin) == ("", "fitted")
    given = sources.submit(harvest(dataset="other", context_length=64)).submission
    assert not given.unresolved


def test_a_gguf_file_is_taken_as_it_is(sources: Bench) -> None:
    model = {"path": "files:smol", "gguf_file": "smol.gguf"}
    assert sources.submit(harvest(language_model=model)).state is JobState.QUEUED


@pytest.mark.parametrize(
    ("changes", "kind", "field"),
    [
        ({"sites": [{"layer": 1}, {"layer": 4}]}, InvalidInput, "sites[1].layer"),
        ({"language_model": {"path": "smol"}}, InvalidInput, "language_model.path"),
        ({"language_model": {"path": "files:../x"}}, InvalidInput, "language_model.path"),
        ({"language_model": {"path": "other:x"}}, InvalidInput, "language_model.path"),
        ({"language_model": {"path": "files:gone"}}, NotFound, "language_model.path"),
        ({"language_model": {"path": "files:a.txt"}}, InvalidInput, "language_model.path"),
        (
            {"language_model": {"path": "files:smol", "gguf_file": "../a.gguf"}},
            InvalidInput,
            "language_model.gguf_file",
        ),
        (
            {"language_model": {"path": "files:smol", "gguf_file": "gone.gguf"}},
            NotFound,
            "language_model.gguf_file",
        ),
        ({"texts": [{"path": "files:gone.txt"}]}, NotFound, "texts[0].path"),
        ({"texts": [{"path": "files:a.txt"}, {"path": "a"}]}, InvalidInput, "texts[1].path"),
    ],
)
def test_a_harvest_that_cannot_run_is_refused(
    sources: Bench, changes: dict[str, Any], kind: type[ServiceError], field: str
) -> None:
    error = refused(sources, harvest(**changes))
    assert isinstance(error, kind)
    assert error.field == f"spec.harvest.{field}"
    assert not sources.datasets.exists("acts")


@pytest.mark.parametrize("config", [None, "{", '{"hidden_size": "wide"}'])
def test_a_folder_that_is_no_language_model(sources: Bench, config: str | None) -> None:
    path = sources.root / "smol" / "config.json"
    path.unlink()
    if config is not None:
        path.write_text(config)
    assert refused(sources, harvest()).code == "BAD_LANGUAGE_MODEL"


def test_an_ingest_takes_registered_files(bench: Bench) -> None:
    (bench.root / "a.npy").write_bytes(b"12345")
    bench.datasets.register("acts", ["files:a.npy"])
    record, plan = bench.plan({"ingest": {"dataset": "acts"}})
    assert record.state is JobState.QUEUED
    assert plan.disk_bytes == 5
    error = refused(bench, {"ingest": {"dataset": "acts"}})
    assert isinstance(error, FailedPrecondition)
    assert record.id in error.message


def test_an_ingest_needs_whole_files_of_a_pending_data_set(bench: Bench) -> None:
    bench.datasets.create("empty")
    bench.datasets.create("made", "j-1")
    bench.ready("done")
    for name, reason in (
        ("empty", "NO_FILES"),
        ("made", "DATASET_NOT_PENDING"),
        ("done", "DATASET_NOT_PENDING"),
        ("gone", "DATASET_NOT_FOUND"),
    ):
        error = refused(bench, {"ingest": {"dataset": name}})
        assert error.code == reason
        assert error.field == "spec.ingest.dataset" or reason == "NO_FILES"


def test_an_evaluation_is_pinned_to_a_version_and_a_source(bench: Bench) -> None:
    bench.ready(sources=("x", "y"))
    bench.publish()
    record, plan = bench.plan({"evaluate": {"model": "sae", "dataset": "acts"}})
    resolved = record.submission.resolved_spec["evaluate"]
    assert resolved["model"] == "models/sae/versions/1"
    assert resolved["source"] == "x"
    assert plan.memory_bytes > 0


def test_each_of_several_models_is_pinned_and_in_use(bench: Bench) -> None:
    bench.ready()
    for name in ("sae", "other"):
        bench.publish(name, f"j-{name}")
    record, _ = bench.plan({"evaluate": {"model": "sae", "models": ["other"], "dataset": "acts"}})
    resolved = record.submission.resolved_spec["evaluate"]
    assert (resolved["model"], resolved["models"]) == (
        "models/sae/versions/1",
        ["models/other/versions/1"],
    )


@pytest.mark.parametrize(
    ("changes", "kind", "field"),
    [
        ({"models": ["gone"]}, NotFound, "models.0"),
        ({"models": ["sae"]}, InvalidInput, "models"),
        ({"loss_recovered": {"arms": ["median"]}}, InvalidInput, "loss_recovered.arms.0"),
        ({"model": "gone"}, NotFound, "model"),
        ({"model": "sae@7"}, NotFound, "model"),
        ({"model": "sae@prod"}, NotFound, "model"),
        ({"model": "a/b"}, InvalidInput, "model"),
        ({"dataset": "gone"}, NotFound, "dataset"),
        ({"dataset": "none-held-out"}, FailedPrecondition, "dataset"),
        ({"source": "y"}, InvalidInput, "source"),
        ({"dataset": "wide"}, InvalidInput, "source"),
        ({"loss_recovered": {}}, FailedPrecondition, "loss_recovered"),
    ],
)
def test_an_evaluation_that_cannot_run_is_refused(
    bench: Bench, changes: dict[str, Any], kind: type[ServiceError], field: str
) -> None:
    bench.ready()
    bench.ready("none-held-out", heldout_rows=0)
    bench.ready("wide", d=16)
    bench.publish()
    error = refused(bench, {"evaluate": {"model": "sae", "dataset": "acts"} | changes})
    assert isinstance(error, kind)
    assert error.field == f"spec.evaluate.{field}"


def test_loss_recovered_needs_the_language_model_named(bench: Bench) -> None:
    bench.ready(language_model="files:smol")
    bench.publish()
    spec: dict[str, Any] = {"model": "sae", "dataset": "acts", "loss_recovered": {}}
    assert bench.submit({"evaluate": spec}).state is JobState.QUEUED


def test_an_old_version_is_evaluated_although_a_new_one_is_made(bench: Bench) -> None:
    bench.ready()
    bench.publish()
    train = bench.submit({"train": TRAIN})
    spec = {"model": "sae@1", "dataset": "acts"}
    old, _ = bench.plan({"evaluate": spec}, waits_for=(train.id,))
    new, plan = bench.plan({"evaluate": spec | {"model": "sae"}}, waits_for=(train.id,))
    assert old.submission.resolved_spec["evaluate"]["model"] == "models/sae/versions/1"
    assert new.submission.resolved_spec["evaluate"]["model"] == "sae"
    assert "waits for" in plan.notes[0]
