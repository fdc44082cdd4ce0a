"""Messages to values and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.client.values import job_value
from saeserve.control.converters.events import event_message, gap_message
from saeserve.control.converters.jobs import (
    etag,
    job_message,
    listed_message,
    state_message,
    state_of,
)
from saeserve.control.converters.specs import spec_message, to_plain
from saeserve.control.converters.times import timestamp
from saeserve.control.converters.tokens import (
    Cursor,
    page_after,
    page_size,
    page_token,
    resume_cursor,
    resume_token,
)
from saeserve.core.specs.jobs import JobSpec
from saeserve.errors import InvalidInput
from saeserve.jobs.record import (
    Event,
    Failure,
    JobRecord,
    JobWarning,
    Output,
    Progress,
    Submission,
)
from saeserve.jobs.states import JobState
from saeserve.v1 import job_pb2, spec_pb2

JOB = "j-00000000000000000000"


def record(**changes: Any) -> JobRecord:  # noqa: ANN401 - any field
    spec = {"train": {"dataset": "acts", "tokens": 5_000_000_000}}
    submission = Submission(
        id=JOB,
        kind="train",
        spec=spec,
        resolved_spec=spec,
        resource_class="cpu",
        labels={"a": "b"},
        waits_for=("j-1",),
        created=1.5,
    )
    return JobRecord(submission=submission, state=JobState.RUNNING).model_copy(update=changes)


def test_zero_and_unset_differ() -> None:
    message = spec_pb2.JobSpec()
    message.train.topk.k = 0
    message.train.preprocess.scale = False
    message.train.d_sae = 2**40
    plain = {"topk": {"k": 0}, "preprocess": {"scale": False}, "d_sae": 2**40}
    assert to_plain(message) == {"train": plain}
    assert spec_message({"train": plain}) == message


def test_lists_of_messages_stay_lists() -> None:
    message = spec_pb2.JobSpec()
    message.harvest.sites.add(hook="mlp_out", layer=0)
    message.harvest.texts.add(path="a:b")
    assert to_plain(message) == {
        "harvest": {"sites": [{"hook": "mlp_out", "layer": 0}], "texts": [{"path": "a:b"}]}
    }


def test_every_spec_survives_the_way_there_and_back() -> None:
    specs: list[dict[str, Any]] = [
        {
            "train": {
                "dataset": "a",
                "model": "m",
                "jumprelu": {"ste_to_input": True},
                "d_sae": 8,
                "tokens": 4096,
                "optimizer": {"lr": 1e-3, "clip_norm": 0.0},
            }
        },
        {
            "harvest": {
                "dataset": "a",
                "language_model": {"path": "r:m"},
                "texts": [{"path": "r:t", "format": "jsonl"}],
                "sites": [{"layer": 0}, {"hook": "mlp_out", "layer": 1}],
            }
        },
        {"ingest": {"dataset": "a", "sources": [{"tensor": "t", "source": "s", "layer": 0}]}},
        {"evaluate": {"model": "m", "dataset": "a", "loss_recovered": {"max_tokens": 5}}},
    ]
    for plain in specs:
        spec = JobSpec.parse(plain, "")
        assert JobSpec.parse(to_plain(spec_message(spec.to_json())), "") == spec


def test_a_job_as_the_api_tells_it() -> None:
    failure = Failure(code="DATA_MISMATCH", message="m", remedy="r", retryable=True, step=4)
    outputs = (
        Output(model="models/sae/versions/1", metrics={"fvu": 0.5}),
        Output(dataset="acts"),
        Output(evaluation={"metrics": {"l0": 3.0}, "features": [{"feature": 7, "new": 1}]}),
    )
    job = job_message(
        record(
            state=JobState.FAILED,
            failure=failure,
            outputs=outputs,
            attempt=2,
            started=2.0,
            ended=3.25,
            progress=Progress(step=9, total_steps=10, unit="rows", metrics={"fvu": 0.5}),
        )
    )
    assert (job.id, job.state, job.attempt) == (JOB, job_pb2.JOB_STATE_FAILED, 2)
    assert job.spec.train.tokens == 5_000_000_000
    assert dict(job.labels) == {"a": "b"}
    assert list(job.waits_for) == ["j-1"]
    assert (job.error.code, job.error.retryable, job.error.step) == ("DATA_MISMATCH", True, 4)
    assert [output.WhichOneof("kind") for output in job.outputs] == [
        "model",
        "dataset",
        "evaluation",
    ]
    assert job.outputs[0].metrics["fvu"] == 0.5
    assert job.outputs[2].evaluation.features[0].feature == 7
    assert (job.progress.step, job.progress.unit) == (9, "rows")
    assert job.end_time.ToMilliseconds() == 3250


def test_a_listing_keeps_what_kind_each_output_is() -> None:
    outputs = (
        Output(model="models/sae/versions/1", metrics={"fvu": 0.5}),
        Output(dataset="acts"),
        Output(exported="exports/sae/1/saelens"),
        Output(evaluation={"metrics": {"l0": 3.0}, "features": [{"feature": 7}]}),
    )
    listed = listed_message(record(state=JobState.SUCCEEDED, outputs=outputs)).outputs
    assert [output.WhichOneof("kind") for output in listed] == [
        *("model", "dataset", "exported", "evaluation")
    ]
    assert listed[0].model == "models/sae/versions/1"
    assert listed[3].evaluation.metrics == {"l0": 3.0}
    assert not listed[3].evaluation.features


def test_figures_of_an_evaluation_reach_the_sdk_and_reports_without_them_are_read() -> None:
    metric = {"name": "kl_nats", "definition": "kl_clean_spliced/1", "value": 0.25, "unit": "nats"}
    whole = metric | {"n": 6000, "counted": "predicted tokens", "seed": 3, "stratum": ""}
    bounded = whole | {"low": 0.2, "high": 0.0}
    old = Output(evaluation={"metrics": {"l0": 3.0}, "density": [], "features": []})
    new = Output(evaluation={"model": "models/m/versions/1", "results": [whole, bounded]})
    seen = record(state=JobState.SUCCEEDED, outputs=(old, new))
    before, after = job_value(job_message(seen)).outputs
    assert before.results == ()
    assert before.evaluation is not None
    assert before.evaluation["metrics"] == {"l0": 3.0}
    assert [(m.low, m.high) for m in after.results] == [(None, None), (0.2, 0.0)]
    assert vars(after.results[1]) == bounded
    assert not listed_message(seen).outputs[1].evaluation.results


def test_warnings_of_submit_and_end_stand_in_the_job_each_once() -> None:
    """Of a sweep once a member."""
    few = JobWarning(code="TOO_FEW_STEPS", message="at submit")
    again = JobWarning(code="TOO_FEW_STEPS", message="at the end")
    outputs = tuple(
        Output(model=name, warnings=(again, JobWarning(code="FVU_HIGH", message="m", member=name)))
        for name in ("a", "b")
    )
    submitted = record().submission.model_copy(update={"warnings": (few,)})
    job = job_message(record(submission=submitted, outputs=outputs))
    assert [(w.code, w.message, w.member) for w in job.warnings] == [
        ("TOO_FEW_STEPS", "at submit", ""),
        ("FVU_HIGH", "m", "a"),
        ("FVU_HIGH", "m", "b"),
    ]


def test_what_has_not_happened_has_no_time() -> None:
    job = job_message(record())
    assert not job.HasField("start_time")
    assert not job.HasField("end_time")
    assert not job.HasField("error")
    assert timestamp(0) is None


def test_every_state_has_its_value() -> None:
    for state in JobState:
        assert state_of(state_message(state), "filter") is state
    assert len(job_pb2.JobState.values()) == len(JobState) + 1
    with pytest.raises(InvalidInput):
        state_of(job_pb2.JOB_STATE_UNSPECIFIED, "filter.states[0]")


def test_an_etag_ignores_progress_and_lease() -> None:
    moving = record(progress=Progress(step=5), revision=7, beats=9, owner_id="w")
    assert etag(moving) == etag(record())
    assert etag(record(attempt=2)) != etag(record())
    assert etag(record(state=JobState.CANCELLING)) != etag(record())


@pytest.mark.parametrize(
    ("kind", "data", "payload"),
    [
        ("state_changed", {"state": "RUNNING", "reason": "r"}, "state_changed"),
        ("attempt_started", {"resume_step": 0}, "attempt_started"),
        ("metrics", {"metrics": {}, "unit": "steps"}, "metrics_reported"),
        ("checkpoint", {"bytes": 0}, "checkpoint_committed"),
        ("warning", {"code": "", "message": ""}, "warning_raised"),
        ("log", {"message": ""}, "log_written"),
    ],
)
def test_every_event_has_its_payload(kind: str, data: dict[str, Any], payload: str) -> None:
    line = {"epoch": 2, "op": 0, "time": 1.0, "step": 3, "type": kind, "data": data}
    event = Event.model_validate(line)
    message = event_message(JOB, Cursor("g", 4), event)
    assert message is not None
    assert message.WhichOneof("payload") == payload
    assert (message.attempt, message.step) == (2, 3)
    assert resume_cursor(message.token, JOB) == Cursor("g", 4)


def test_an_event_of_a_newer_release_is_left_out() -> None:
    line = {"epoch": 1, "op": 0, "time": 1.0, "type": "dream", "data": {"of": "sheep"}}
    assert event_message(JOB, Cursor(), Event.model_validate(line)) is None


def test_a_gap_continues_where_the_watch_stood() -> None:
    message = gap_message(JOB, Cursor("g", 4), 7)
    assert message.gap.events == 7
    assert resume_cursor(message.token, JOB) == Cursor("g", 4)


@given(st.text(), st.text(min_size=1))
def test_a_page_token_reads_back_in_its_listing_only(scope: str, after: str) -> None:
    token = page_token(scope, after)
    assert page_after(token, scope) == after
    with pytest.raises(InvalidInput):
        page_after(token, scope + "other")


@given(st.text(max_size=20))
def test_made_up_tokens_are_refused(token: str) -> None:
    if not token:
        return
    for read in (page_after, resume_cursor):
        with pytest.raises(InvalidInput) as caught:
            read(token, JOB)
        assert caught.value.field in ("page_token", "resume_token")


def test_a_token_of_another_job_is_refused() -> None:
    token = resume_token("j-11111111111111111111", Cursor("g", 1))
    with pytest.raises(InvalidInput, match="another job"):
        resume_cursor(token, JOB)
    assert resume_cursor("", JOB) == Cursor()


def test_page_sizes() -> None:
    assert [page_size(n) for n in (0, 1, 1000, 1001)] == [100, 1, 1000, 1000]
    with pytest.raises(InvalidInput) as caught:
        page_size(-1)
    assert caught.value.field == "page_size"
