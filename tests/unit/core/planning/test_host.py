"""What a job on an accelerator takes of its host, and hosts that have less."""

from __future__ import annotations

import pytest

from saeserve.core.planning.footprint import Footprint, Memory, Moment, Part
from saeserve.core.planning.machine import Fleet, Machine
from saeserve.core.planning.plan import Plan, plan_members
from saeserve.core.planning.refusal import INSUFFICIENT_MEMORY, refusal
from saeserve.core.planning.sizes import TrainingData
from saeserve.core.planning.tensors import footprint_of
from saeserve.core.specs.training import TrainSpec, resolve

DATA = TrainingData(
    d=64, train_rows=10_000_000, heldout_rows=5_000, shard_rows=100_000, value_bytes=2
)
ROW = 64 * 2


def spec(**changes: object) -> TrainSpec:
    values: dict[str, object] = {
        "dataset": "acts",
        "model": "sae",
        "topk": {"k": 8},
        "d_sae": 4096,
        "tokens": 40_000_000,
        "batch_size": 1000,
    }
    return resolve(TrainSpec.parse(values | changes, "train"), DATA.d, "x")


def host(*members: TrainSpec) -> Footprint:
    return footprint_of(members, DATA, Memory.HOST)


def plan_on(*machines: tuple[int, int]) -> Plan:
    """On machines of so many bytes, and so many of their hosts."""
    each = (Machine(kind="card", memory_bytes=own, host_memory_bytes=n) for own, n in machines)
    return plan_members((spec(),), DATA, Fleet(resource_class="gpu", machines=tuple(each)))


def test_the_host_holds_windows_staging_and_the_copy_of_a_checkpoint() -> None:
    sizes = {each.name: each.size for each in host(spec()).held if each.host}
    assert sizes["window"] == sizes["window read ahead"] == 8 * 100_000 * ROW
    # Pinned blocks are powers of two: 128,000 bytes, and 64 MiB.
    assert sizes["blocks staged"] == 2 * 2**17
    assert sizes["pieces staged"] == 2 * 2**26
    # W_enc and W_dec, b_enc, b_dec, each with two moments; two counters.
    state = 3 * (2 * 4 * 4096 * 64 + 4 * 4096 + 4 * 64) + 2 * 8 * 4096
    assert sizes["checkpoint on the host"] == state


def test_the_start_and_the_export_stand_in_the_hosts_memory_once() -> None:
    plan, parameters = host(spec()), 4 * (2 * 4096 * 64 + 4096 + 64)
    start = {e.name: e.size for e in plan.held if e.name.startswith("start.")}
    assert sum(start.values()) == parameters
    saved = plan.at(Moment.EXPORT) - plan.at(Moment.EVALUATION)
    assert saved == parameters
    sweep = host(spec(), spec())
    assert {moment: sweep.at(moment) for moment in Moment} == {m: plan.at(m) for m in Moment}


def test_what_is_on_the_device_is_not_the_hosts_and_the_other_way_round() -> None:
    device = footprint_of((spec(),), DATA, Memory.DEVICE)
    assert host(spec()).largest(Part.OPTIMIZER) == host(spec()).largest(Part.GRADIENTS) == 0
    moment = Moment.BACKWARD
    whole = sum(each.size for each in device.held if moment in each.moments)
    assert device.at(moment) + host(spec()).at(moment) == whole


@pytest.mark.parametrize("memory", [Memory.SHARED, Memory.HOST])
def test_the_model_that_runs_continue_from_stays(memory: Memory) -> None:
    runs = (spec(), spec(init_from="sae@1"))
    plain, continued = (footprint_of((run,), DATA, memory) for run in runs)
    added = 4 * (2 * 4096 * 64 + 4096 + 64)
    assert {continued.at(moment) - plain.at(moment) for moment in Moment} == {added}


def test_a_host_that_is_too_small_is_refused_by_name_with_the_window_that_would_fit() -> None:
    needed = host(spec()).peak
    plan = plan_on((2**40, needed - 1))
    assert (plan.host_memory_bytes, plan.machine_host_memory_bytes) == (needed, needed - 1)
    assert plan.refusal is not None
    assert plan.refusal.code == INSUFFICIENT_MEMORY
    assert "the host memory of the largest worker of class gpu has" in plan.refusal.message
    assert "preprocess.window_shards = 7" in plan.refusal.remedy
    assert plan_on((2**40, needed)).refusal is None


def test_where_no_window_fits_a_narrower_dictionary_is_named() -> None:
    wide = spec(d_sae=2**22)
    least = host(spec(d_sae=8)).peak
    found = refusal((wide,), DATA, least + 2**20, "the host memory of x", Memory.HOST)
    assert found is not None
    assert found.largest_d_sae is not None
    assert f"d_sae = {found.largest_d_sae}" in found.remedy
    narrow, wider = (spec(d_sae=found.largest_d_sae + more) for more in (0, 1))
    assert host(narrow).peak <= least + 2**20 < host(wider).peak


def test_the_device_is_named_where_that_is_too_small() -> None:
    plan = plan_on((2**20, 2**20))
    assert plan.refusal is not None
    assert "host memory" not in plan.refusal.message


def test_a_worker_that_does_not_say_what_its_host_has_is_not_refused() -> None:
    plan = plan_on((2**40, 0))
    assert (plan.refusal, plan.machine_host_memory_bytes) == (None, None)
    assert plan.host_memory_bytes == host(spec()).peak


def test_a_job_goes_to_a_machine_that_has_both() -> None:
    needed = host(spec()).peak
    plan = plan_on((2**41, needed - 1), (2**40, needed), (2**20, 2**41))
    assert (plan.refusal, plan.machine_memory_bytes) == (None, 2**40)
    assert any("2 of 3 workers" in note and "host memory" in note for note in plan.notes)


def test_without_an_accelerator_nothing_is_said_of_a_host() -> None:
    fleet = Fleet(machines=(Machine(kind="x", memory_bytes=2**40),))
    plan = plan_members((spec(),), DATA, fleet)
    assert (plan.host_memory_bytes, plan.host_memory) == (None, None)
