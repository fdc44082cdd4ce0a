"""Submitting: what is recorded, what is planned, and what is told to whom."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.control import TRAIN, Bench

from saeserve.errors import (
    Conflict,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    SaeError,
    ServiceError,
)
from saeserve.jobs.states import JobState
from saeserve.registry.dataset import DatasetState
from saeserve.registry.datasets import DatasetRegistry

HARVEST: dict[str, Any] = {
    "dataset": "acts",
    "language_model": {"path": "far:smol"},
    "texts": [{"path": "far:a.txt"}],
    "sites": [{"layer": 3}],
}
ABSENT = "j-00000000000000000000"


def refused(bench: Bench, spec: dict[str, Any], **changes: Any) -> ServiceError:  # noqa: ANN401 - any field
    """The error; and nothing was recorded."""
    before = bench.ledger.jobs()
    with pytest.raises(ServiceError) as caught:
        bench.submit(spec, **changes)
    assert not isinstance(caught.value, SaeError)
    assert bench.ledger.jobs() == before
    return caught.value


def test_a_train_job_is_recorded_resolved_indexed_and_rung(bench: Bench) -> None:
    bench.ready()
    record, plan = bench.plan({"train": TRAIN}, owner="ann", labels={"a": "b"}, priority=3)
    assert record.state is JobState.QUEUED
    assert bench.ledger.submission(record.id) == record.submission
    assert bench.index.get(record.id) is not None
    assert bench.doorbell.rings == {"cpu": 1}
    submission = record.submission
    assert submission.spec == {"train": TRAIN}
    assert submission.resolved_spec["train"]["source"] == "x"
    assert submission.resolved_spec["train"]["topk"]["k_aux"] == 2
    assert (submission.owner, submission.labels, submission.priority) == ("ann", {"a": "b"}, 3)
    assert submission.max_attempts == 3
    assert plan.steps == 2
    assert plan.parameters == 2 * 4 * 8 + 8 + 4


def test_what_looks_wrong_is_warned_of_planned_and_kept_with_the_job(bench: Bench) -> None:
    bench.ready()
    record, plan = bench.plan({"train": TRAIN | {"optimizer": {"warmup_steps": 50}}})
    assert {"TOO_FEW_STEPS", "WARMUP_TOO_LONG"} <= {warning.code for warning in plan.warnings}
    kept = bench.ledger.submission(record.id).warnings
    assert [w.model_dump() for w in kept] == [w.model_dump() for w in plan.warnings]
    assert record.warnings == kept


def test_a_data_set_that_is_not_there_yet_leaves_what_needs_no_rows(bench: Bench) -> None:
    harvest = bench.submit({"harvest": HARVEST})
    spec = TRAIN | {"optimizer": {"warmup_steps": 50}}
    _, plan = bench.plan({"train": spec}, waits_for=(harvest.id,))
    assert {warning.code for warning in plan.warnings} >= {"TOO_FEW_STEPS", "WARMUP_TOO_LONG"}
    assert "NOTHING_HELD_OUT" not in {warning.code for warning in plan.warnings}


def test_validating_records_nothing(bench: Bench) -> None:
    bench.ready()
    record, plan = bench.plan({"train": TRAIN}, validate_only=True, request_id="r")
    assert record.id == ""
    assert record.submission.resolved_spec["train"]["source"] == "x"
    assert plan.steps == 2
    assert bench.ledger.jobs() == bench.index.ids() == []
    assert not bench.doorbell.rings
    assert bench.store.names("requests") == []


def test_the_index_and_the_doorbell_may_be_away(bench: Bench) -> None:
    bench.ready()
    bench.index.down = bench.doorbell.down = True
    record = bench.train()
    assert bench.ledger.jobs() == [record.id]
    assert bench.parts.jobs.catalog.get(record.id) == record


def test_a_request_id_gives_the_same_job(bench: Bench) -> None:
    bench.ready()
    first = bench.submit({"train": TRAIN}, request_id="r", owner="ann")
    assert bench.submit({"train": TRAIN}, request_id="r", owner="ann").id == first.id
    assert bench.submit({"train": TRAIN}, request_id="r", owner="bob").id != first.id
    error = refused(bench, {"train": TRAIN | {"seed": 1}}, request_id="r", owner="ann")
    assert isinstance(error, Conflict)
    assert error.field == "request_id"
    assert first.id in error.message


def test_a_repeated_harvest_is_not_refused_for_its_own_data_set(bench: Bench) -> None:
    first = bench.submit({"harvest": HARVEST}, request_id="r")
    assert bench.submit({"harvest": HARVEST}, request_id="r").id == first.id


def test_a_request_without_its_job_is_done_anew(bench: Bench) -> None:
    bench.ready()
    first = bench.submit({"train": TRAIN}, request_id="r")
    bench.store.remove(f"jobs/{first.id}")
    again = bench.submit({"train": TRAIN}, request_id="r")
    assert again.id == first.id
    assert bench.ledger.jobs() == [first.id]


def test_a_harvest_reserves_its_data_set(bench: Bench) -> None:
    record = bench.submit({"harvest": HARVEST})
    found = bench.datasets.get("acts")
    assert (found.state, found.job) == (DatasetState.PENDING, record.id)
    error = refused(bench, {"harvest": HARVEST})
    assert isinstance(error, Conflict)
    assert record.id in error.message


def test_a_harvest_that_loses_the_race_for_its_name_has_failed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_yet(self: DatasetRegistry, name: str) -> bool:
        return False

    bench.datasets.create("acts", "j-other")
    with monkeypatch.context() as patch:
        patch.setattr(DatasetRegistry, "exists", not_yet)
        with pytest.raises(Conflict):
            bench.submit({"harvest": HARVEST})
    [job] = bench.ledger.jobs()
    record = bench.ledger.record(job)
    assert record.state is JobState.FAILED
    assert record.failure is not None
    assert record.failure.code == "DATASET_EXISTS"
    assert not bench.doorbell.rings


def test_a_job_waits_for_what_makes_its_input(bench: Bench) -> None:
    harvest = bench.submit({"harvest": HARVEST})
    train, plan = bench.plan({"train": TRAIN}, waits_for=(harvest.id,))
    assert train.state is JobState.BLOCKED
    assert bench.doorbell.rings == {"cpu": 1}
    assert "READY" in plan.notes[0]
    assert "source" not in train.submission.resolved_spec["train"]
    evaluate = bench.submit(
        {"evaluate": {"model": "sae", "dataset": "acts"}}, waits_for=(train.id, harvest.id)
    )
    assert evaluate.submission.resolved_spec["evaluate"]["model"] == "sae"


def test_a_pending_data_set_needs_its_job_waited_for(bench: Bench) -> None:
    harvest = bench.submit({"harvest": HARVEST})
    error = refused(bench, {"train": TRAIN})
    assert isinstance(error, FailedPrecondition)
    assert error.field == "spec.train.dataset"
    assert harvest.id in error.remedy
    assert "waits_for" in error.remedy


def test_waiting_for_what_is_not_there_or_has_failed(bench: Bench) -> None:
    bench.ready()
    error = refused(bench, {"train": TRAIN}, waits_for=(ABSENT,))
    assert isinstance(error, NotFound)
    job = bench.train().id
    bench.start(job)
    bench.end(job, JobState.FAILED)
    error = refused(bench, {"train": TRAIN}, waits_for=(job,))
    assert isinstance(error, FailedPrecondition)
    assert error.field == "waits_for[0]"


def test_waiting_for_what_has_succeeded_is_no_waiting(bench: Bench) -> None:
    bench.ready()
    job = bench.train().id
    bench.start(job)
    bench.end(job, JobState.SUCCEEDED)
    assert bench.submit({"train": TRAIN}, waits_for=(job,)).state is JobState.QUEUED


@pytest.mark.parametrize(
    ("changes", "kind", "field"),
    [
        ({"d_sae": 0}, InvalidInput, "spec.train.d_sae"),
        ({"topk": {"k": 9}}, InvalidInput, "spec.train.topk.k"),
        ({"topk": None}, InvalidInput, "spec.train"),
        ({"dataset": "../acts"}, InvalidInput, "spec.train.dataset"),
        ({"dataset": "gone"}, NotFound, "spec.train.dataset"),
        ({"source": "y"}, InvalidInput, "spec.train.source"),
        ({"dataset": "two"}, InvalidInput, "spec.train.source"),
        ({"dataset": "broken"}, FailedPrecondition, "spec.train.dataset"),
        ({"dataset": "uploaded"}, FailedPrecondition, "spec.train.dataset"),
        ({"dataset": "heldout"}, FailedPrecondition, "spec.train.dataset"),
    ],
)
def test_a_train_job_that_cannot_run_is_refused(
    bench: Bench, changes: dict[str, Any], kind: type[ServiceError], field: str
) -> None:
    bench.ready()
    bench.ready("two", sources=("x", "y"))
    bench.ready("heldout", rows=100, heldout_rows=100)
    bench.datasets.create("uploaded")
    bench.datasets.create("broken", "j-1")
    bench.datasets.fail("broken", "shard 1, row 2: NaN")
    error = refused(bench, {"train": TRAIN | changes})
    assert isinstance(error, kind)
    assert error.field == field
    assert error.remedy


def test_exactly_one_kind(bench: Bench) -> None:
    assert refused(bench, {}).field == "spec"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"waits_for": ("j-1",)}, "waits_for[0]"),
        ({"waits_for": ("../../x",)}, "waits_for[0]"),
        ({"max_attempts": -1}, "max_attempts"),
        ({"max_attempts": 101}, "max_attempts"),
        ({"owner": "x" * 257}, "owner"),
        ({"request_id": "a\nb"}, "request_id"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {"a": "x" * 257}}, "labels[a]"),
        ({"labels": {str(i): "" for i in range(65)}}, "labels"),
        ({"waits_for": (ABSENT,) * 101}, "waits_for"),
    ],
)
def test_an_order_that_cannot_be_is_refused(
    bench: Bench, changes: dict[str, Any], field: str
) -> None:
    bench.ready()
    error = refused(bench, {"train": TRAIN}, **changes)
    assert isinstance(error, InvalidInput)
    assert error.field == field


@pytest.mark.parametrize(("device", "name"), [("auto", "cpu"), ("cpu", "cpu"), ("cuda", "gpu")])
def test_the_device_decides_the_resource_class(bench: Bench, device: str, name: str) -> None:
    bench.ready()
    assert bench.train(device=device).submission.resource_class == name
    assert bench.doorbell.rings == {name: 1}
