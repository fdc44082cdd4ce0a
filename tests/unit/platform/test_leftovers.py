"""Temporaries are found wherever they lie, and stay while anybody may still be writing them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from saeserve.core.durable import held, temporary_beside
from saeserve.platform.leftovers import (
    Leftover,
    last_change,
    remove_abandoned,
    size_of,
    temporaries,
)
from saeserve.platform.store import ArtifactStore

NOW, SAFE_S = 1_000_000.0, 3600.0
PLACES = [
    "x",
    "requests/x.json",
    "jobs/j-1/job.json",
    "jobs/j-1/attempts/1/checkpoints/100",
    "jobs/j-1/attempts/1/export/model.safetensors",
    "models/m/versions/1",
    "models/m/aliases/prod.json",
    "exports/m/1/saelens",
    "datasets/d/shards/00000.safetensors",
    "uploads/u/upload.json",
]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path / "store")
    store.check()
    return store


def leave(store: ArtifactStore, place: str, age_s: float, *, folder: bool = False) -> Path:
    """A temporary of 3 bytes beside `place`, last changed `age_s` ago."""
    path = temporary_beside(store.path(place))
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = path / "deep" / "file" if folder else path
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.write_bytes(b"123")
    for each in [inside, *inside.parents]:
        if each.is_relative_to(path):
            os.utime(each, (NOW - age_s, NOW - age_s))
    return path


def found(store: ArtifactStore) -> list[Leftover]:
    return list(temporaries(store, SAFE_S, NOW))


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_old_ones_can_go_wherever_they_lie(store: ArtifactStore, place: str, folder: bool) -> None:
    path = leave(store, place, SAFE_S + 1, folder=folder)
    [only] = found(store)
    assert store.path(only.key) == path
    assert (only.bytes, only.kept) == (3, "")
    store.remove(only.key)
    assert found(store) == []


@pytest.mark.parametrize("folder", [False, True])
def test_what_was_changed_lately_stays(store: ArtifactStore, folder: bool) -> None:
    path = leave(store, "models/m/versions/1", SAFE_S + 1, folder=folder)
    os.utime(path / "deep" / "file" if folder else path, (NOW - 60, NOW - 60))
    [only] = found(store)
    assert only.kept == "changed 60 s ago, less than 3600 s"


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_living_process_holds_stays_however_old(store: ArtifactStore, folder: bool) -> None:
    path = leave(store, "models/m/versions/1", 1e6, folder=folder)
    with held(path):
        [only] = found(store)
        assert only.kept == "a process is writing it"
    [only] = found(store)
    assert only.kept == ""


@pytest.mark.parametrize("folder", [False, True])
def test_the_abandoned_go_at_once_below_one_folder(store: ArtifactStore, folder: bool) -> None:
    places = ("1/checkpoints/100", "1/log.txt", "2/log.txt")
    paths = [leave(store, f"jobs/j/attempts/{each}", 0, folder=folder) for each in places]
    with held(paths[1]):
        remove_abandoned(store, "jobs/j/attempts/1")
    assert [each.exists() for each in paths] == [False, True, True]
    remove_abandoned(store, "jobs/j/attempts/3")
    assert len(list(store.path("jobs/j/attempts").glob("*"))) == 2


def test_other_names_and_what_they_hold_are_not_found(store: ArtifactStore) -> None:
    for name in ("a.tmp", ".a", "b.part", ".c.tmp.json"):
        store.path(f"datasets/d/{name}").parent.mkdir(parents=True, exist_ok=True)
        store.path(f"datasets/d/{name}").touch()
    assert found(store) == []


def test_links_are_not_followed(store: ArtifactStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".mine.tmp").write_bytes(b"keep")
    store.path("link").symlink_to(outside)
    link = store.path(".link.tmp")
    link.symlink_to(outside)
    [only] = temporaries(store, 0.0, NOW + 1e10)
    store.remove(only.key)
    assert not link.is_symlink()
    assert (outside / ".mine.tmp").read_bytes() == b"keep"


def test_a_folder_is_as_large_and_as_young_as_all_in_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"12345")
    (tmp_path / "a" / "y").write_bytes(b"67")
    for each in (tmp_path / "a" / "y", tmp_path / "a" / "b", tmp_path / "a"):
        os.utime(each, (10, 10))
    os.utime(tmp_path / "a" / "b" / "x", (99, 99))
    assert size_of(tmp_path / "a") == 7
    assert last_change(tmp_path / "a") == 99
