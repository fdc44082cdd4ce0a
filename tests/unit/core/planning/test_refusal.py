"""What fits a machine, and the largest that would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.planning.footprint import Memory
from saeserve.core.planning.refusal import INSUFFICIENT_MEMORY, refusal
from saeserve.core.planning.sizes import TrainingData
from saeserve.core.planning.tensors import BASE_BYTES, footprint_of
from saeserve.core.specs.training import TrainSpec, resolve

DATA = TrainingData(d=64, train_rows=50_000, heldout_rows=5_000, shard_rows=16_384)


def spec(**changes: object) -> TrainSpec:
    values: dict[str, object] = {
        "dataset": "acts",
        "model": "sae",
        "relu": {},
        "d_sae": 16_384,
        "tokens": 40_000_000,
        "batch_size": 4096,
    }
    return resolve(TrainSpec.parse(values | changes, "train"), DATA.d, "x")


def peak(run: TrainSpec) -> int:
    return footprint_of((run,), DATA).peak


def test_what_fits_is_not_refused() -> None:
    run = spec()
    assert refusal((run,), DATA, peak(run), "this machine") is None


def test_a_refusal_names_needs_room_and_the_largest_that_fit() -> None:
    run = spec()
    found = refusal((run,), DATA, peak(run) - 1, "this machine")
    assert found is not None
    assert found.code == INSUFFICIENT_MEMORY
    for part in ("backward", "this machine has", "parameters", "optimizer", "temporaries"):
        assert part in found.message
    assert (found.largest_batch_size, found.largest_d_sae) == (4095, None)
    assert "batch_size = 4095" in found.remedy


@given(st.integers(0, 60))
def test_the_largest_fit_and_one_more_would_not(sixtieth: int) -> None:
    run, least = spec(), peak(spec(batch_size=1))
    available = least + (peak(run) - least - 1) * sixtieth // 60
    found = refusal((run,), DATA, available, "x")
    assert found is not None
    batch, micro = found.largest_batch_size, found.largest_micro_batch_size
    assert batch is not None
    assert peak(spec(batch_size=batch)) <= available < peak(spec(batch_size=batch + 1))
    if micro is not None:
        assert run.batch_size % micro == 0
        assert peak(spec(micro_batch_size=micro)) <= available


def test_where_no_batch_fits_the_widest_dictionary_is_named() -> None:
    run = spec(d_sae=2**22, batch_size=8)
    available = BASE_BYTES + 2**30
    found = refusal((run,), DATA, available, "x")
    assert found is not None
    assert found.largest_batch_size is found.largest_micro_batch_size is None
    d_sae = found.largest_d_sae
    assert d_sae is not None
    narrow, wide = (spec(d_sae=n, batch_size=8) for n in (d_sae, d_sae + 1))
    assert peak(narrow) <= available < peak(wide)
    assert f"d_sae = {d_sae}" in found.remedy


def test_a_machine_too_small_for_anything_is_told_so() -> None:
    found = refusal((spec(),), DATA, 1, "x")
    assert found is not None
    assert found.remedy == "use a machine with more memory"


def test_members_hold_their_states_together_and_their_steps_in_turn() -> None:
    run = spec()
    one, two = footprint_of((run,), DATA), footprint_of((run, run), DATA)
    state = sum(each.size for each in one.held if each.name in ("W_enc", "first.W_enc"))
    assert two.peak - one.peak == pytest.approx(3 * state, rel=0.02)


def test_an_accelerator_holds_neither_rows_to_come_nor_the_interpreter() -> None:
    run = spec()
    host, device = (footprint_of((run,), DATA, each) for each in (Memory.SHARED, Memory.DEVICE))
    assert device.peak < host.peak
    assert "window" in {each.name for each in host.held if each.host}
