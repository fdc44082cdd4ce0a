"""Jobs that have ended can be deleted; what they made stays, and nothing brings them back."""

from __future__ import annotations

import pytest
from tests.fakes.control import Bench
from tests.fakes.registry import write_export

from saeserve.errors import FailedPrecondition, InvalidInput, NotFound
from saeserve.jobs.errors import Fenced, IndexUnavailable
from saeserve.jobs.fence import check_fence
from saeserve.jobs.record import Output, Result
from saeserve.jobs.states import JobState


@pytest.fixture(autouse=True)
def data(bench: Bench) -> None:
    bench.ready()


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_a_job_that_has_ended_is_gone(bench: Bench, state: JobState) -> None:
    job = bench.train().id
    bench.start(job)
    made = bench.publish(job=job)
    bench.end(job, state, model=made if state is JobState.SUCCEEDED else "")
    bench.parts.jobs.deleter.delete(job)
    assert not bench.store.exists(f"jobs/{job}")
    assert bench.index.ids() == []
    with pytest.raises(NotFound):
        bench.parts.jobs.catalog.get(job)
    kept = [made] if state is JobState.SUCCEEDED else []
    assert [version.resource for version in bench.models.list()] == kept
    assert bench.datasets.names() == ["acts"]
    with pytest.raises(NotFound):
        bench.parts.jobs.deleter.delete(job)


@pytest.mark.parametrize("begun", [False, True])
def test_a_live_job_is_refused(bench: Bench, begun: bool) -> None:
    job = bench.train().id
    if begun:
        bench.start(job)
    with pytest.raises(FailedPrecondition, match="has not ended") as caught:
        bench.parts.jobs.deleter.delete(job)
    assert caught.value.code == "JOB_LIVE"
    assert bench.ledger.exists(job)


def test_a_job_that_a_live_one_waits_for_is_refused_naming_that(bench: Bench) -> None:
    first = bench.train().id
    bench.start(first)
    second = bench.submit({"train": _train("other")}, waits_for=(first,)).id
    bench.end(first, JobState.SUCCEEDED)
    with pytest.raises(FailedPrecondition, match=f"{second} waits for job {first}"):
        bench.parts.jobs.deleter.delete(first)
    assert bench.ledger.exists(first)


def test_a_job_that_is_cancelled_but_not_settled_is_refused(bench: Bench) -> None:
    """The index says so, the store does not yet."""
    job = bench.train().id
    record = bench.index.get(job)
    assert record is not None
    bench.index.finish(job, 0, JobState.CANCELLED, (), None)
    with pytest.raises(FailedPrecondition):
        bench.parts.jobs.deleter.delete(job)


@pytest.mark.parametrize("job", ["", "../acts", "j-1", "j-" + "0" * 20 + "/.."])
def test_what_is_no_id_deletes_nothing(bench: Bench, job: str) -> None:
    with pytest.raises(InvalidInput):
        bench.parts.jobs.deleter.delete(job)
    assert bench.datasets.names() == ["acts"]


def test_without_the_index_nothing_is_deleted(bench: Bench) -> None:
    """A rebuild would bring the job back to a list that this call could not clear."""
    job = bench.train().id
    bench.start(job)
    bench.end(job, JobState.SUCCEEDED)
    bench.index.down = True
    with pytest.raises(IndexUnavailable):
        bench.parts.jobs.deleter.delete(job)
    assert bench.ledger.exists(job)


def test_what_only_the_index_holds_is_removed_there(bench: Bench) -> None:
    job = bench.train().id
    bench.start(job)
    bench.end(job, JobState.SUCCEEDED)
    bench.store.remove(f"jobs/{job}")
    bench.parts.jobs.deleter.delete(job)
    assert bench.index.ids() == []


def test_its_request_id_makes_a_new_job(bench: Bench) -> None:
    job = bench.train(model="a").id
    first = bench.submit({"train": _train("b")}, request_id="r").id
    bench.start(job)
    bench.start(first)
    bench.end(first, JobState.FAILED)
    bench.parts.jobs.deleter.delete(first)
    again = bench.submit({"train": _train("b")}, request_id="r").id
    assert again != first


def test_a_model_that_a_deleted_job_was_to_make_is_not_in_training(bench: Bench) -> None:
    job = bench.train().id
    bench.start(job)
    bench.end(job, JobState.FAILED)
    bench.parts.jobs.deleter.delete(job)
    with pytest.raises(NotFound, match="there is no model sae"):
        bench.models.resolve("sae")


def test_what_a_job_made_is_published_before_it_goes(bench: Bench) -> None:
    """The worker died between the result and what follows from it."""
    job, version = _unapplied(bench, named=True)
    bench.parts.jobs.deleter.delete(job)
    assert bench.models.resolve("other").version == version


def test_what_no_result_names_does_not_come_up_when_the_job_goes(bench: Bench) -> None:
    job, _ = _unapplied(bench, named=False)
    bench.parts.jobs.deleter.delete(job)
    with pytest.raises(NotFound):
        bench.models.resolve("other")


def _unapplied(bench: Bench, *, named: bool) -> tuple[str, int]:
    """An ended job and its version, which nothing was done about since."""
    job = bench.train(model="other").id
    bench.start(job)
    export = write_export(bench.folder / "other")
    resource = bench.models.publish("other", job, 0, export)
    state = JobState.SUCCEEDED if named else JobState.FAILED
    outputs = (Output(model=resource),) if named else ()
    bench.ledger.finish(Result(job=job, epoch=1, state=state, outputs=outputs, time=3000.0))
    bench.index.finish(job, 1, state, outputs, None)
    return job, 1


def test_uploads_whose_ingest_was_deleted_can_be_ingested_again(bench: Bench) -> None:
    first, second = bench.train().id, bench.train(model="b").id
    bench.start(first)
    bench.datasets.create("mine")
    bench.datasets.making.begin("mine", first, 1)
    bench.end(first, JobState.FAILED)
    bench.parts.jobs.deleter.delete(first)
    assert bench.datasets.making.begin("mine", second, 1).is_dir()


def test_an_attempt_of_a_deleted_job_is_fenced(bench: Bench) -> None:
    job, other = bench.train().id, bench.train(model="other").id
    bench.start(job)
    bench.end(job, JobState.CANCELLED)
    bench.parts.jobs.deleter.delete(job)
    with pytest.raises(Fenced, match="deletion"):
        check_fence(bench.store, job, 1)
    bench.store.remove(f"jobs/{other}")
    bench.store.remove("jobs")
    check_fence(bench.store, job, 1)  # a store that is away tells nothing


def _train(model: str) -> dict[str, object]:
    return {"dataset": "acts", "model": model, "topk": {"k": 2}, "d_sae": 8, "tokens": 4096}
