"""Lines of events that older releases wrote are read, and written again byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from saeserve.jobs.payloads import (
    AttemptStarted,
    CheckpointCommitted,
    LogWritten,
    MetricsReported,
    Payload,
    StateChanged,
    UnknownPayload,
    WarningRaised,
)
from saeserve.jobs.record import Event
from saeserve.jobs.states import JobState

STORES = Path(__file__).parents[2] / "stores"
HEAD = '{"epoch":2,"op":3,"time":1795761939.5,"step":7,'
MEMBER = '"member":"m-k2","member_number":1'
LINES: dict[str, Payload] = {
    '"type":"state_changed","data":{"state":"RUNNING","reason":""}': StateChanged(
        state=JobState.RUNNING, reason=""
    ),
    '"type":"attempt_started","data":{"resume_step":0}': AttemptStarted(resume_step=0),
    '"type":"metrics","data":{"metrics":{"fvu":0.25,"rows":512.0},"unit":"rows",'
    '"total_steps":512,"units_per_second":97843.71188184769}': MetricsReported(
        metrics={"fvu": 0.25, "rows": 512.0},
        unit="rows",
        total_steps=512,
        units_per_second=97843.71188184769,
    ),
    '"type":"metrics","data":{"metrics":{},"unit":"steps","total_steps":0,'
    f'"units_per_second":0.0,{MEMBER}}}': MetricsReported(
        metrics={},
        unit="steps",
        total_steps=0,
        units_per_second=0.0,
        member="m-k2",
        member_number=1,
    ),
    '"type":"checkpoint","data":{"bytes":99}': CheckpointCommitted(bytes=99),
    f'"type":"warning","data":{{"code":"EPOCHS","message":"448 rows",{MEMBER}}}': WarningRaised(
        code="EPOCHS", message="448 rows", member="m-k2", member_number=1
    ),
    '"type":"log","data":{"message":"published models/topk/versions/1"}': LogWritten(
        message="published models/topk/versions/1"
    ),
}


@pytest.mark.parametrize(("line", "payload"), LINES.items())
def test_an_event_is_the_same_line_as_ever(line: str, payload: Payload) -> None:
    event = Event.model_validate_json(HEAD + line + "}")
    assert event.payload == payload
    assert type(event.payload) is type(payload)
    written = Event.model_validate(
        {"epoch": 2, "op": 3, "time": 1795761939.5, "step": 7, "payload": payload}
    )
    assert event.model_dump_json() == written.model_dump_json() == HEAD + line + "}"


def test_every_line_of_the_kept_stores_is_written_again_as_it_is() -> None:
    lines = [
        line
        for path in STORES.glob("*/jobs/*/attempts/*/*.jsonl")
        for line in path.read_bytes().splitlines()
    ]
    assert len(lines) > 50
    for line in lines:
        event = Event.model_validate_json(line)
        assert not isinstance(event.payload, UnknownPayload)
        assert event.model_dump_json().encode() == line


def test_what_a_newer_release_added_is_kept() -> None:
    more = HEAD + '"type":"log","data":{"message":"m","level":3}}'
    other = HEAD + '"type":"dream","data":{"of":["sheep"]}}'
    state = HEAD + '"type":"state_changed","data":{"state":"DREAMING","reason":"r"}}'
    for line in (more, other, state):
        assert Event.model_validate_json(line).model_dump_json() == line
    assert isinstance(Event.model_validate_json(other).payload, UnknownPayload)
    assert isinstance(Event.model_validate_json(state).payload, UnknownPayload)


def test_a_payload_may_have_no_fields() -> None:
    event = Event.model_validate_json(HEAD + '"type":"metrics"}')
    assert event.payload == MetricsReported()
    assert event.data == {}


@pytest.mark.parametrize("tail", ['"data":{}}', '"type":"log","data":5}', '"type":4,"data":{}}'])
def test_a_damaged_line_is_no_event(tail: str) -> None:
    with pytest.raises(ValidationError):
        Event.model_validate_json(HEAD + tail)
