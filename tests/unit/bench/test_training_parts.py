"""Who races in each part of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from bench.training import parts
from bench.training.contestant import LIMIT, OURS, Contestant
from bench.training.parts import PARTS, Setting
from bench.training.race import Result, Track


@pytest.fixture
def fields(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Contestant]]:
    """The contestants of each race that a part runs; nobody races."""
    seen: list[Sequence[Contestant]] = []

    def note(contestants: Sequence[Contestant], _track: Track) -> list[Result]:
        seen.append(contestants)
        return []

    def prepare(*_args: object, **_options: object) -> None:
        return None

    monkeypatch.setattr(parts, "race", note)
    monkeypatch.setattr(parts, "_prepare", prepare)
    return seen


def run_part(name: str, tmp_path: Path) -> set[str]:
    return set(PARTS[name](Setting(), Track(tmp_path, 2)))


def test_wide_dictionaries_are_ours_alone(
    fields: list[Sequence[Contestant]], tmp_path: Path
) -> None:
    names = {f"width_{width}" for width in (4096, 16_384, 65_536, 131_072)}
    assert run_part("widths", tmp_path) == names
    narrow, wide = fields[0], fields[-1]
    assert {who.d_sae for who in wide} == {131_072}
    assert [who.system for who in wide] == [LIMIT, OURS]
    assert {who.system for who in narrow} == {LIMIT, OURS, "saelens", "sparsify"}
    assert not any(who.evaluate for who in narrow)


def test_batches_grow_in_the_same_width(fields: list[Sequence[Contestant]], tmp_path: Path) -> None:
    assert run_part("batches", tmp_path) == {"batch_512", "batch_8192"}
    assert [{who.batch for who in field} for field in fields] == [{512}, {8192}]
    assert {who.d_sae for field in fields for who in field} == {9216}


def test_auxk_is_at_work_in_every_system_that_has_it(
    fields: list[Sequence[Contestant]], tmp_path: Path
) -> None:
    assert run_part("auxk", tmp_path) == {"auxk"}
    assert {who.dead_steps for who in fields[0]} == {2}
    assert "sparsify" not in {who.system for who in fields[0]}


def test_everybody_starts_from_the_sparse_jumprelu(
    fields: list[Sequence[Contestant]], tmp_path: Path
) -> None:
    assert run_part("jumprelu_sparse", tmp_path) == {"jumprelu_sparse"}
    assert len({who.start for who in fields[0]}) == 1
    assert all(who.start for who in fields[0])
    assert {who.target_l0 for who in fields[0]} == {None}


def test_in_a_whole_run_ours_starts_as_it_does_and_saelens_beside_it(
    fields: list[Sequence[Contestant]], tmp_path: Path
) -> None:
    assert run_part("jumprelu", tmp_path) == {"jumprelu"}
    assert {who.system for who in fields[0] if who.start} == {"saelens"}


def test_a_peer_races_itself_in_the_environment_of_a_job(
    fields: list[Sequence[Contestant]], tmp_path: Path
) -> None:
    run_part("environment", tmp_path)
    assert all([who.as_job for who in field] == [False, True] for field in fields)
    usual = {who.as_job for who in Setting().field("topk") if who.system != OURS}
    assert usual == {False}
    passive = Setting(peers_as_jobs=True).field("topk")
    assert {who.as_job for who in passive if who.system != LIMIT} == {True}


def test_every_peer_races_in_its_architectures() -> None:
    setting = Setting()
    systems = [who.label for who in setting.field("topk")]
    assert systems[0] == "limit"
    assert systems[-1] == "sparsify topk fp32"
    assert "sparsify" not in {who.system for who in setting.field("batchtopk")}
    assert {who.turns for who in setting.field("jumprelu")} == {7}
    assert {who.k for who in setting.field("jumprelu")} == {64}


def test_eight_members_race_one_that_is_like_them(
    fields: list[Sequence[Contestant]], tmp_path: Path
) -> None:
    assert run_part("sweep", tmp_path) == {"sweep"}
    many, alone = fields[0]
    assert (many.members, many.turn_tokens) == (8, 8 * alone.turn_tokens)
    assert replace(many, members=1) == alone
    assert many.label == "saeserve topk bf16 x 8"
