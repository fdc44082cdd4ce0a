"""Speeds of finished jobs, as the store keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeserve.core.planning.machine import SpeedRecord, StepShape
from saeserve.platform.store import ArtifactStore
from saeserve.registry.speeds import KEPT, SpeedBook

MACHINE = "Ångström 7 / x, 2 threads"


def record(job: str, architecture: str = "topk", seconds: float = 0.1) -> SpeedRecord:
    shape = StepShape(
        architecture=architecture,
        d_in=4,
        d_out=4,
        d_sae=8,
        parameters=76,
        active=2.0,
        encoder_dtype="auto",
        batch_size=16,
        micro_batches=1,
    )
    return SpeedRecord(job=job, shape=shape, seconds_per_step=seconds)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def test_records_are_those_of_machine_and_architecture(store: ArtifactStore) -> None:
    book = SpeedBook(store)
    assert book.records(MACHINE, "topk") == ()
    for each in (record("j-1"), record("j-2", "relu"), record("j-3")):
        book.add(MACHINE, each)
    again = SpeedBook(store)
    assert again.records(MACHINE, "topk") == (record("j-1"), record("j-3"))
    assert again.records(MACHINE, "relu") == (record("j-2", "relu"),)
    assert again.records("another", "topk") == ()


def test_the_latest_are_kept_and_a_job_counts_once(store: ArtifactStore) -> None:
    book = SpeedBook(store)
    for number in range(KEPT + 3):
        book.add(MACHINE, record(f"j-{number}"))
    book.add(MACHINE, record(f"j-{KEPT}", seconds=9.0))
    found = book.records(MACHINE, "topk")
    assert len(found) == KEPT
    assert found[-1] == record(f"j-{KEPT}", seconds=9.0)
    assert [each.job for each in found].count(f"j-{KEPT}") == 1


@pytest.mark.parametrize("text", ["{", '{"format_version": 99, "machine": "", "architecture": ""}'])
def test_what_cannot_be_read_counts_as_nothing(store: ArtifactStore, text: str) -> None:
    book = SpeedBook(store)
    book.add(MACHINE, record("j-1"))
    [path] = store.root.rglob("topk.json")
    path.write_text(text)
    assert book.records(MACHINE, "topk") == ()
    book.add(MACHINE, record("j-2"))
    assert book.records(MACHINE, "topk") == (record("j-2"),)
