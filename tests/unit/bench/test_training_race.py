"""Who trains what, and that contestants take turns in processes of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.peers.setting import Start
from bench.planted.synthetic import write_synthetic
from bench.training.contestant import LIMIT, OURS, Dtype, decay_steps, warmup_steps
from bench.training.precision import overlap
from bench.training.race import Track, race
from bench.training.rows import Rows, write
from bench.training.runners import (
    OurRunner,
    SweepRunner,
    our_spec,
    peer_setting,
    runner_of,
)
from tests.fakes.races import contestant
from torch import Tensor

from saeserve.core.specs.training import DEAD_WINDOW_TOKENS

TINY: dict[str, Any] = {"d_sae": 32, "k": 4, "batch": 16, "steps": 4, "turn_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of a planted data set as the race reads them."""
    data, rows = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("rows")
    shape: dict[str, Any] = {"d": 8, "n_features": 16, "active": 2, "rows": 512, "seed": 1}
    manifest = write_synthetic(data, name="tiny", offset=3.0, **shape)
    (data / "manifest.json").write_bytes(manifest.to_bytes())
    write(rows, data, "activations", heldout_rows=32)
    return rows


def lengths(x_BD: Tensor) -> Tensor:
    return x_BD.square().sum(dim=1).sqrt()


def test_rows_are_centred_and_scaled_and_repeat_without_end(folder: Path) -> None:
    rows = Rows(folder)
    everything = rows.batch(0, rows.rows)
    assert everything.mean(0).abs().max() < 1e-5
    assert float(lengths(everything).mean()) == pytest.approx(8**0.5, rel=1e-4)
    root = float(everything.square().sum(1).mean().sqrt())
    assert rows.header.root_mean_square == pytest.approx(root, rel=1e-5)
    across = rows.batch(rows.rows - 3, 5)
    assert torch.equal(across, torch.cat([everything[-3:], everything[:2]]))
    assert sum(len(x) for x in rows.heldout()) == rows.header.heldout_rows == 32


def test_a_sweep_reads_the_rows_of_a_turn_once_for_all_members(folder: Path) -> None:
    who = contestant(OURS, **TINY, members=3)
    runner = runner_of(who, Rows(folder))
    assert isinstance(runner, SweepRunner)
    # The first batch was read before, to start from.
    assert [runner.turn()["rows_read"] for _ in range(who.turns)] == [16, 32]


def test_ours_trains_in_the_setting_with_a_dead_window_in_tokens() -> None:
    who = contestant(OURS, "matryoshka", "bfloat16", **TINY)
    spec = our_spec(who, 8)
    assert spec.steps == 4
    assert spec.encoder_dtype == "bfloat16"
    assert spec.dead_window_tokens == DEAD_WINDOW_TOKENS
    assert spec.matryoshka is not None
    assert spec.matryoshka.widths == (1, 4, 16, 32)
    assert our_spec(replace(who, dead_steps=3), 8).dead_window_tokens == 48


def test_a_peer_gets_our_schedule_and_its_own_autocast() -> None:
    who = contestant("saelens", dtype="bfloat16", steps=60, turn_steps=10)
    found = peer_setting(who, 8, 1.5)
    assert found.autocast
    assert found.schedule is not None
    assert (found.schedule.warmup_steps, found.schedule.decay_steps) == (5, 12)
    assert (warmup_steps(20), decay_steps(20)) == (2, 4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ours_takes_turns_and_is_evaluated(folder: Path, dtype: Dtype) -> None:
    who = replace(contestant(OURS, **TINY), dtype=dtype)
    runner = OurRunner(who, Rows(folder))
    turns = [runner.turn() for _ in range(who.turns)]
    assert turns[-1]["l0"] == 4
    assert all(turn["seconds"] > 0 for turn in turns)
    found = runner.finish()
    assert 0 < found["fvu"] < 1.5
    assert ("jaccard" in found) == (dtype == "bfloat16")
    assert found.get("jaccard", 1.0) > 0.9


def test_a_jumprelu_is_handed_on(folder: Path, tmp_path: Path) -> None:
    who = contestant(OURS, "jumprelu", **TINY)
    runner = OurRunner(who, Rows(folder))
    runner.turn()
    runner.save(tmp_path / "start.pt")
    start = Start.load(tmp_path / "start.pt")
    then = OurRunner(replace(who, start=str(tmp_path / "start.pt")), Rows(folder))
    then.save(tmp_path / "again.pt")
    again = Start.load(tmp_path / "again.pt")
    assert torch.equal(again.W_enc_FD, start.W_enc_FD)
    assert torch.allclose(again.threshold_F, start.threshold_F)


def test_unit_rows_leave_the_function_as_it_is() -> None:
    drawn = torch.Generator().manual_seed(0)
    W_FD, rows_FD = torch.randn(2, 6, 3, generator=drawn)
    start = Start(W_FD, torch.zeros(6), rows_FD, torch.zeros(3), torch.full((6,), 0.3))
    unit = start.with_unit_rows()
    x_BD = torch.randn(10, 3, generator=drawn)

    def through(model: Start) -> Tensor:
        h_BF = x_BD @ model.W_enc_FD.T + model.b_enc_F
        return (h_BF * (h_BF > model.threshold_F)) @ model.W_dec_FD

    assert torch.allclose(through(unit), through(start), atol=1e-5)
    assert torch.allclose(lengths(unit.W_dec_FD), torch.ones(6))


def test_overlap_is_that_of_sets() -> None:
    a_F = torch.tensor([True, True, False, False])
    b_F = torch.tensor([True, False, True, False])
    assert overlap(a_F, b_F) == pytest.approx(1 / 3)
    assert overlap(~a_F & a_F, ~b_F & b_F) == 1.0


def test_contestants_take_turns_in_processes_of_their_own(folder: Path) -> None:
    who = contestant(LIMIT, **TINY, evaluate=False)
    found = race([who, who], Track(folder, 1))
    assert [len(one.turns) for one in found] == [2, 2]
    assert all(turn["gemm_bfloat16"] > 0 for one in found for turn in one.turns)
    assert all(one.peak_bytes >= one.base_bytes > 0 for one in found)


def test_the_log_of_a_contestant_that_dies_is_told(folder: Path) -> None:
    who = replace(contestant(OURS, **TINY, evaluate=False), k=2000)
    with pytest.raises(RuntimeError, match=r"(?s)saeserve topk fp32 has ended:.*k = 2000 exceeds"):
        race([who], Track(folder, 1))
