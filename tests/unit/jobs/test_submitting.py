"""A request id stands for one job, whatever crashes or races."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.fakes.jobs import submission

from saeserve.errors import Conflict, NotFound
from saeserve.jobs.errors import RecordUnreadable
from saeserve.jobs.layout import request_key
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import JOB_FORMAT


def test_what_was_submitted_is_kept(ledger: Ledger) -> None:
    submitted = submission("j-1", labels={"a": "b"}, waits_for=("j-0",), request_id="r")
    assert ledger.submit(submitted) == submitted
    assert ledger.submission("j-1") == submitted
    assert ledger.jobs() == ["j-1"]
    assert ledger.exists("j-1")


def test_the_same_request_gives_the_same_job(ledger: Ledger) -> None:
    first = ledger.submit(submission("j-1", request_id="r", body_sha256="b"))
    again = ledger.submit(submission("j-2", request_id="r", body_sha256="b", created=2000.0))
    assert again == first
    assert ledger.jobs() == ["j-1"]


def test_another_body_is_a_conflict(ledger: Ledger) -> None:
    ledger.submit(submission("j-1", request_id="r", body_sha256="b"))
    with pytest.raises(Conflict, match="'r' was used for job j-1") as caught:
        ledger.submit(submission("j-2", request_id="r", body_sha256="c"))
    assert (caught.value.code, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")
    assert ledger.jobs() == ["j-1"]


def test_request_ids_belong_to_their_owner(ledger: Ledger) -> None:
    for job, owner in (("j-1", "a"), ("j-2", "b")):
        assert ledger.submit(submission(job, request_id="r", owner=owner)).id == job
    assert request_key("a", "br") != request_key("ab", "r")


def test_a_crash_before_the_job_is_healed_by_the_retry(ledger: Ledger) -> None:
    ledger.submit(submission("j-1", request_id="r", body_sha256="b"))
    ledger.store.path("jobs/j-1/job.json").unlink()
    assert ledger.jobs() == []
    again = ledger.submit(submission("j-2", request_id="r", body_sha256="b"))
    assert again.id == "j-1"
    assert ledger.submission("j-1") == again


def test_without_request_id_each_is_its_own_job(ledger: Ledger) -> None:
    ledger.submit(submission("j-1"))
    ledger.submit(submission("j-2"))
    assert ledger.jobs() == ["j-1", "j-2"]
    with pytest.raises(Conflict, match="j-1 is taken"):
        ledger.submit(submission("j-1"))


def test_racing_retries_make_one_job(ledger: Ledger) -> None:
    gate = threading.Barrier(8)

    def submit(number: int) -> str:
        gate.wait()
        return ledger.submit(submission(f"j-{number}", request_id="r", body_sha256="b")).id

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(submit, range(8)))
    assert list(ids) == ledger.jobs()


def test_an_unknown_job_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="j-9"):
        ledger.submission("j-9")
    with pytest.raises(NotFound, match="j-9"):
        ledger.record("j-9")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "not JSON"),
        (b'{"id": "j-1"}', "kind: Field required"),
        (b"[]", "the document"),
        (f'{{"format_version": {JOB_FORMAT + 1}, "new": 1}}'.encode(), "newer than this release"),
    ],
)
def test_an_unreadable_document_is_named(ledger: Ledger, content: bytes, why: str) -> None:
    ledger.store.put_if_absent("jobs/j-1/job.json", content)
    with pytest.raises(RecordUnreadable, match=why) as caught:
        ledger.submission("j-1")
    assert "jobs/j-1/job.json" in caught.value.message
