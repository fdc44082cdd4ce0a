"""Plans on the machines that workers tell of, and jobs that no machine could hold."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.control import TRAIN, Bench

from saeserve.control.converters.jobs import plan_message
from saeserve.core.planning.machine import Machine, SpeedRecord, StepShape
from saeserve.errors import FailedPrecondition
from saeserve.registry.speeds import SpeedBook

WIDE: dict[str, Any] = TRAIN | {"d_sae": 2**16, "batch_size": 1024, "relu": {}, "topk": None}
SHAPE = StepShape(
    architecture="topk",
    d_in=4,
    d_out=4,
    d_sae=8,
    parameters=76,
    active=2.0,
    encoder_dtype="auto",
    batch_size=1024,
    micro_batches=1,
)


def announce(bench: Bench, memory_bytes: int, resource_class: str = "cpu") -> None:
    machine = Machine(kind="Zen, 2 threads", memory_bytes=memory_bytes)
    bench.index.announce(resource_class, "w", machine, 60.0)


def record(bench: Bench, machine: str = "Zen, 2 threads", job: str = "j-1") -> None:
    SpeedBook(bench.store).add(machine, SpeedRecord(job=job, shape=SHAPE, seconds_per_step=0.01))


def test_a_job_that_fits_is_taken_and_told_its_time(bench: Bench) -> None:
    bench.ready()
    announce(bench, 2**34)
    record(bench)
    taken, plan = bench.plan({"train": TRAIN})
    assert bench.ledger.jobs() == [taken.id]
    assert plan.machine_memory_bytes == 2**34
    assert plan.seconds is not None
    assert plan.tokens_per_second == pytest.approx(4096 / plan.seconds)
    assert "speed is scaled from 1 finished topk job on Zen, 2 threads" in plan.notes


def test_jobs_on_machines_of_another_kind_say_nothing(bench: Bench) -> None:
    bench.ready()
    announce(bench, 2**34)
    record(bench, "Xeon, 64 threads")
    _, plan = bench.plan({"train": TRAIN}, validate_only=True)
    assert (plan.seconds, plan.machine_memory_bytes) == (None, 2**34)
    assert any("no topk job has finished on Zen, 2 threads yet" in note for note in plan.notes)


def test_jobs_of_any_device_go_to_the_gpu_while_a_worker_takes_that_class(bench: Bench) -> None:
    bench.ready()
    assert bench.train().submission.resource_class == "cpu"
    announce(bench, 2**34, "gpu")
    assert bench.train(model="b").submission.resource_class == "gpu"
    bench.index.down = True
    assert bench.train(model="c").submission.resource_class == "gpu"
    bench.index.down = False
    assert bench.train(model="d", device="cpu").submission.resource_class == "cpu"


def test_a_gpu_job_that_fits_no_gpu_is_refused(bench: Bench) -> None:
    bench.ready()
    announce(bench, 2**40, "cpu")
    announce(bench, 2**20, "gpu")
    with pytest.raises(FailedPrecondition, match="largest worker of class gpu") as caught:
        bench.train(**WIDE, device="cuda")
    assert caught.value.code == "INSUFFICIENT_MEMORY"


def test_a_job_that_fits_no_machine_is_refused_with_the_largest_that_would(bench: Bench) -> None:
    bench.ready()
    _, planned = bench.plan({"train": WIDE}, validate_only=True)
    announce(bench, planned.memory_bytes - 1)
    with pytest.raises(FailedPrecondition, match="the job needs") as caught:
        bench.train(**WIDE)
    error = caught.value
    assert (error.code, error.field) == ("INSUFFICIENT_MEMORY", "spec.train")
    assert "batch_size = 1023" in error.remedy
    assert bench.ledger.jobs() == []


def test_a_plan_of_a_job_that_does_not_fit_shows_the_numbers_and_says_so(bench: Bench) -> None:
    bench.ready()
    announce(bench, 2**30)
    _, plan = bench.plan({"train": WIDE}, validate_only=True)
    assert plan.refusal is not None
    assert plan.refusal.code == "INSUFFICIENT_MEMORY"
    message = plan_message(plan)
    assert message.memory.gradient_bytes == 4 * plan.parameters
    assert message.refusal.largest_batch_size == plan.refusal.largest_batch_size
    assert not message.HasField("tokens_per_second")


def test_machines_of_another_class_do_not_count(bench: Bench) -> None:
    bench.ready()
    announce(bench, 1, "gpu")
    _, plan = bench.plan({"train": WIDE | {"device": "cpu"}})
    assert plan.refusal is None
    assert any("no worker of class cpu" in note for note in plan.notes)


def test_without_the_index_jobs_are_planned_without_machines(bench: Bench) -> None:
    bench.ready()
    announce(bench, 1)
    bench.index.down = True
    taken, plan = bench.plan({"train": TRAIN})
    assert plan.machine_memory_bytes is None
    assert bench.ledger.jobs() == [taken.id]
