"""Submitting a sweep: members are checked, planned and announced, and what became of them told."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.control import TRAIN, Bench
from tests.fakes.jobs import submission

from saeserve.control.converters.events import event_message
from saeserve.control.converters.jobs import job_message, plan_message
from saeserve.control.converters.tokens import Cursor
from saeserve.core.planning.sizes import parameter_count
from saeserve.errors import FailedPrecondition, InvalidInput, NotFound, ServiceError
from saeserve.jobs.payloads import MetricsReported
from saeserve.jobs.record import Event, Failure, JobRecord, Output, Progress
from saeserve.jobs.states import JobState

SWEEP: dict[str, Any] = TRAIN | {"topk": {}, "sweep": {"k": [1, 2], "lr": [1e-3, 1e-4]}}
MODELS = ("sae-k1-lr0.001", "sae-k1-lr0.0001", "sae-k2-lr0.001", "sae-k2-lr0.0001")


def refused(bench: Bench, **changes: Any) -> ServiceError:  # noqa: ANN401 - any field
    with pytest.raises(ServiceError) as caught:
        bench.submit({"train": SWEEP | changes})
    assert bench.ledger.jobs() == []
    return caught.value


def test_a_sweep_is_recorded_with_what_its_members_share_resolved(bench: Bench) -> None:
    bench.ready()
    record, plan = bench.plan({"train": SWEEP})
    resolved = record.submission.resolved_spec["train"]
    assert (resolved["source"], resolved["data_seed"], resolved["model"]) == ("x", 0, "sae")
    assert resolved["sweep"]["k"] == [1, 2]
    assert "k_aux" not in resolved["topk"]
    message = job_message(record)
    assert list(message.resolved_spec.train.sweep.lr) == [1e-3, 1e-4]
    assert plan.models == tuple(plan_message(plan).models) == MODELS
    assert plan.steps == 2


def test_the_plan_is_that_of_all_members_on_one_stream(bench: Bench) -> None:
    bench.ready()
    d_sae = (8, 16)
    fields = {"k": 2, "sweep": {"d_sae": list(d_sae)}}
    _, both = bench.plan({"train": SWEEP | {"topk": {"k": 2}, "sweep": fields["sweep"]}})
    alone = [bench.plan({"train": TRAIN | {"d_sae": d, "model": "one"}})[1] for d in d_sae]
    assert both.parameters == sum(parameter_count("topk", 4, d) for d in d_sae)
    assert both.disk_bytes == sum(plan.disk_bytes for plan in alone)
    assert max(p.memory_bytes for p in alone) < both.memory_bytes
    assert both.memory_bytes < sum(plan.memory_bytes for plan in alone)
    assert len(both.notes) == len(set(both.notes))
    assert alone[0].models == ("one",)


def test_every_member_is_announced_and_can_be_waited_for(bench: Bench) -> None:
    bench.ready()
    job = bench.submit({"train": SWEEP}).id
    for model in MODELS:
        with pytest.raises(FailedPrecondition, match=f"still being made by job {job}"):
            bench.models.resolve(model)
    with pytest.raises(NotFound):
        bench.models.resolve("sae")
    evaluate = {"evaluate": {"model": MODELS[1], "dataset": "acts"}}
    assert bench.submit(evaluate, waits_for=(job,)).state is JobState.BLOCKED
    with pytest.raises(NotFound):
        bench.submit({"evaluate": {"model": "sae", "dataset": "acts"}}, waits_for=(job,))


def test_a_sweep_waits_for_its_data_set(bench: Bench) -> None:
    harvest = {
        "dataset": "acts",
        "language_model": {"path": "far:smol"},
        "texts": [{"path": "far:a.txt"}],
        "sites": [{"layer": 3}],
    }
    first = bench.submit({"harvest": harvest})
    fields = {"topk": {}, "sweep": {"target_l0": [1, 2]}}
    record, plan = bench.plan({"train": TRAIN | fields}, waits_for=(first.id,))
    assert plan.models == ("sae-l0_1", "sae-l0_2")
    spec = record.submission.resolved_spec["train"]
    assert (spec["topk"]["k"], spec["target_l0"], spec["data_seed"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("changes", "field", "part"),
    [
        ({"sweep": {"k": [1, 9]}}, "sweep.k", "member k9"),
        ({"sweep": {}}, "sweep", "varies nothing"),
        ({"sweep": {"k": [1, 2], "seed": [1] * 2}}, "sweep.seed", "is listed twice"),
    ],
)
def test_a_member_that_cannot_be_is_named(
    bench: Bench, changes: dict[str, Any], field: str, part: str
) -> None:
    bench.ready()
    error = refused(bench, **changes)
    assert isinstance(error, InvalidInput)
    assert error.field == f"spec.train.{field}"
    assert part in error.message


def test_every_member_must_fit_the_model_that_it_continues(bench: Bench) -> None:
    bench.ready()
    bench.publish()
    assert bench.submit({"train": SWEEP | {"d_sae": 8, "init_from": "sae"}}).state
    fields = {"topk": {"k": 2}, "init_from": "sae", "sweep": {"d_sae": [8, 16]}}
    with pytest.raises(InvalidInput, match="is 16, and the model of init_from has 8"):
        bench.submit({"train": TRAIN | fields})


def test_a_member_that_diverged_is_an_error_beside_the_outputs() -> None:
    failure = Failure(code="DIVERGED_NAN", message="step 5: nan", remedy="lower lr", step=5)
    record = JobRecord(
        submission=submission(),
        state=JobState.SUCCEEDED,
        outputs=(Output(model="models/a/versions/1"), Output(member="b", failure=failure)),
    )
    message = job_message(record)
    assert [output.model for output in message.outputs] == ["models/a/versions/1"]
    [told] = message.member_errors
    assert (told.member, told.error.code, told.error.step) == ("b", "DIVERGED_NAN", 5)
    assert not message.HasField("error")


def test_progress_and_events_name_members() -> None:
    progress = Progress(step=3, metrics={"tokens": 9.0}, members={"a": {"fvu": 0.5}})
    record = JobRecord(submission=submission(), state=JobState.RUNNING, progress=progress)
    [told] = job_message(record).progress.members
    assert (told.member, dict(told.metrics)) == ("a", {"fvu": 0.5})
    payload = MetricsReported(metrics={"fvu": 0.5}, member="a", member_number=0)
    event = Event(epoch=1, op=0, time=1.0, step=3, payload=payload)
    message = event_message("j", Cursor(), event)
    assert message is not None
    assert message.member == "a"
    assert dict(message.metrics_reported.metrics) == {"fvu": 0.5}
