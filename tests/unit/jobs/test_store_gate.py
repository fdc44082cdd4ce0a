"""A store proves that it is the store before anything is concluded from an absence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.jobs import record, submission
from tests.fakes.memory_index import MemoryIndex

from saeserve.errors import Unavailable
from saeserve.jobs.errors import IndexUnavailable
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.store_gate import StoreGate
from saeserve.platform.store import ArtifactStore
from saeserve.platform.store_proof import MARKER, Marker, StoreProof, read_marker


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex()


def store_at(root: Path) -> ArtifactStore:
    root.mkdir(exist_ok=True)
    return ArtifactStore(root)


def gate_of(root: Path, index: MemoryIndex) -> StoreGate:
    """As a service that starts: with its store guarded."""
    store = store_at(root)
    gate = StoreGate(store, index)
    store.guard(gate)
    return gate


def hold(root: Path, index: MemoryIndex, job: str = "j-1") -> None:
    """A job in store and index."""
    Ledger(store_at(root)).submit(submission(job))
    index.put(record(job))


def refused(gate: StoreGate) -> None:
    with pytest.raises(Unavailable) as caught:
        gate.admit()
    assert caught.value.code == "STORE_UNAVAILABLE"
    with pytest.raises(Unavailable):
        gate()


def test_an_empty_store_is_set_up_when_the_index_knows_no_job(
    tmp_path: Path, index: MemoryIndex
) -> None:
    gate = gate_of(tmp_path / "s", index)
    with pytest.raises(Unavailable):
        gate()  # nothing is written before the index was asked
    gate.admit()
    gate()
    assert read_marker(tmp_path / "s") == index.store() == gate.id != ""


def test_an_empty_store_is_refused_when_the_index_knows_jobs(
    tmp_path: Path, index: MemoryIndex
) -> None:
    index.put(record())
    refused(gate_of(tmp_path / "s", index))
    assert list((tmp_path / "s").iterdir()) == []


@pytest.mark.parametrize("jobs", [False, True])
def test_contents_without_a_marker_are_marked_once_and_logged(
    tmp_path: Path, index: MemoryIndex, jobs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hold(tmp_path / "s", index if jobs else MemoryIndex())
    gates = [gate_of(tmp_path / "s", index) for _ in range(3)]
    for gate in gates:
        gate.admit()
        gate()
    assert caplog.text.count("had no marker and is marked") == 1
    assert {gate.id for gate in gates} == {index.store()}


def test_another_store_is_refused_while_the_index_knows_jobs(
    tmp_path: Path, index: MemoryIndex
) -> None:
    hold(tmp_path / "a", index)
    gate_of(tmp_path / "a", index).admit()
    gate_of(tmp_path / "b", MemoryIndex()).admit()
    refused(gate_of(tmp_path / "b", index))
    unmarked = tmp_path / "c"
    hold(unmarked, MemoryIndex(), "j-other")
    refused(gate_of(unmarked, index))
    assert not (unmarked / MARKER).exists()


def test_another_store_is_taken_when_the_index_knows_no_job(
    tmp_path: Path, index: MemoryIndex
) -> None:
    gate_of(tmp_path / "a", index).admit()
    gate_of(tmp_path / "b", MemoryIndex()).admit()
    gate = gate_of(tmp_path / "b", index)
    gate.admit()
    assert index.store() == gate.id == read_marker(tmp_path / "b")


def test_a_marked_store_is_known_again_by_its_jobs(tmp_path: Path, index: MemoryIndex) -> None:
    hold(tmp_path / "a", index)
    gate_of(tmp_path / "a", MemoryIndex()).admit()
    assert index.store() is None  # it was rebuilt, or is of an earlier release
    gate_of(tmp_path / "a", index).admit()
    assert index.store() == read_marker(tmp_path / "a")
    stranger = MemoryIndex()
    stranger.put(record("j-other"))
    refused(gate_of(tmp_path / "a", stranger))


def unmount(root: Path) -> None:
    root.rename(root.with_name("away"))
    root.mkdir()


def mount(root: Path) -> None:
    shutil.rmtree(root)
    root.with_name("away").rename(root)


def test_a_store_that_goes_away_while_running_is_refused_and_known_again(
    tmp_path: Path, index: MemoryIndex
) -> None:
    root = tmp_path / "s"
    gate = gate_of(root, index)
    gate.admit()
    unmount(root)
    refused(gate)  # even without a job: this process has seen the store
    assert list(root.iterdir()) == []
    mount(root)
    gate.admit()
    gate()


def test_without_the_index_contents_are_believed_and_emptiness_is_not(
    tmp_path: Path, index: MemoryIndex
) -> None:
    index.down = True
    empty = gate_of(tmp_path / "a", index)
    with pytest.raises(IndexUnavailable):
        empty.admit()
    with pytest.raises(Unavailable):
        empty()
    Ledger(store_at(tmp_path / "b")).submit(submission())
    gate_of(tmp_path / "b", index)()
    assert not (tmp_path / "b" / MARKER).exists()


CALLS: dict[str, Callable[[ArtifactStore], object]] = {
    "read": lambda store: store.read("jobs/j/job.json"),
    "exists": lambda store: store.exists("jobs/j/job.json"),
    "names": lambda store: store.names("jobs"),
    "put": lambda store: store.put_if_absent("jobs/j/job.json", b"{}"),
    "replace": lambda store: store.replace("jobs/j/job.json", b"{}"),
    "remove": lambda store: store.remove("jobs/j"),
}


@pytest.mark.parametrize("call", sorted(CALLS))
def test_no_absence_is_told_and_nothing_changed_in_an_empty_folder(
    tmp_path: Path, index: MemoryIndex, call: str
) -> None:
    root = tmp_path / "s"
    store = store_at(root)
    gate = StoreGate(store, index)
    store.guard(gate)
    gate.admit()
    store.put_if_absent("jobs/j/job.json", b"{}")
    unmount(root)
    with pytest.raises(Unavailable, match="not there"):
        CALLS[call](store)
    assert list(root.iterdir()) == []
    mount(root)
    assert store.exists("jobs/j/job.json")


def test_a_commit_that_landed_below_a_mount_point_is_no_commit(
    tmp_path: Path, index: MemoryIndex
) -> None:
    root = tmp_path / "s"
    store = store_at(root)
    gate = StoreGate(store, index)
    gate.admit()
    proofs: list[int] = []

    def unmounted_meanwhile() -> None:
        proofs.append(1)
        if len(proofs) > 1:
            (root / MARKER).unlink()
        gate()

    store.guard(unmounted_meanwhile)
    with pytest.raises(Unavailable):
        store.put_if_absent("jobs/j/job.json", b"{}")


def test_a_volume_that_comes_back_between_look_and_proof_is_looked_at_again(
    tmp_path: Path, index: MemoryIndex
) -> None:
    root = tmp_path / "s"
    store = store_at(root)
    gate = StoreGate(store, index)
    gate.admit()
    store.put_if_absent("jobs/j/job.json", b"{}")
    unmount(root)

    def back() -> None:
        mount(root)
        store.guard(gate)
        gate()

    store.guard(back)
    assert store.names("jobs") == ["j"]


def test_inference_takes_the_first_marker_and_waits_for_a_volume(tmp_path: Path) -> None:
    root = tmp_path / "s"
    root.mkdir()
    proof = StoreProof(root)
    with pytest.raises(Unavailable, match="not there"):
        proof()
    (root / "models").mkdir()
    (root / "models" / "m").touch()
    proof()  # of an earlier release: control will mark it
    (root / MARKER).write_text(Marker.new("a").model_dump_json())
    proof()
    (root / MARKER).write_text(Marker.new("b").model_dump_json())
    with pytest.raises(Unavailable, match="holds the artifact store b, not a"):
        proof()
    (root / MARKER).write_text("{")
    with pytest.raises(Unavailable, match="damaged"):
        proof()
