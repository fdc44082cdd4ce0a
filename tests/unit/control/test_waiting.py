"""Why a job that waits does not run yet."""

from __future__ import annotations

from tests.fakes.control import TRAIN, Bench

from saeserve.control.converters.jobs import job_message, listed_message
from saeserve.core.planning.machine import Machine
from saeserve.jobs.queue import Waiting
from saeserve.jobs.record import JobRecord

MACHINE = Machine(kind="two threads", memory_bytes=2**34)


def waiting(bench: Bench, job: str) -> Waiting | None:
    return bench.parts.jobs.waiting.of(bench.parts.jobs.catalog.get(job))


def submitted(bench: Bench, count: int) -> list[JobRecord]:
    bench.ready()
    return [bench.submit({"train": TRAIN | {"seed": seed}}) for seed in range(count)]


def test_a_queued_job_without_a_worker_says_so(bench: Bench) -> None:
    [job] = submitted(bench, 1)
    found = waiting(bench, job.id)
    assert found == Waiting(
        reason="no live worker of class cpu; place 1 of 1 in its queue", place=1, queued=1
    )


def test_places_and_workers_of_a_listing(bench: Bench) -> None:
    jobs = submitted(bench, 3)
    for name in ("w-1", "w-2"):
        bench.index.announce("cpu", name, MACHINE, 60.0)
    found = bench.parts.jobs.waiting.each(jobs)
    assert [found[job.id].place for job in jobs] == [1, 2, 3]
    assert found[jobs[1].id].reason == (
        "place 2 of 3 in the queue of class cpu, which has 2 live workers"
    )


def test_a_job_that_came_back_says_why(bench: Bench) -> None:
    [job] = submitted(bench, 1)
    bench.index.announce("cpu", "w-1", MACHINE, 60.0)
    lease = bench.start(job.id)
    assert waiting(bench, job.id) is None
    bench.index.release(lease, "STALLED")
    found = waiting(bench, job.id)
    assert found is not None
    assert found.returned == "STALLED"
    assert found.reason.endswith("which has 1 live worker; queued again after STALLED")


def test_a_blocked_job_names_what_it_waits_for(bench: Bench) -> None:
    [first] = submitted(bench, 1)
    second = bench.submit({"train": TRAIN | {"model": "next"}}, waits_for=(first.id,))
    found = waiting(bench, second.id)
    assert found is not None
    assert found.reason == f"waits for {first.id} to succeed"


def test_without_the_index_the_broker_is_named(bench: Bench) -> None:
    [job] = submitted(bench, 1)
    bench.index.down = True
    found = waiting(bench, job.id)
    assert found is not None
    assert found.reason.startswith("the broker is out of reach")


def test_messages_carry_it_while_the_job_waits(bench: Bench) -> None:
    [job] = submitted(bench, 1)
    found = waiting(bench, job.id)
    for message in (job_message(job, found), listed_message(job, found)):
        assert message.waiting.reason.startswith("no live worker of class cpu")
        assert (message.waiting.place, message.waiting.queued) == (1, 1)
    assert not job_message(job).HasField("waiting")
