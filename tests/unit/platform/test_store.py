"""The commit rule of the artifact store, and that nothing half-made stays."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from saeserve.errors import InvalidInput, Unavailable
from saeserve.platform.store import ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def test_what_is_put_is_read_whole(store: ArtifactStore) -> None:
    assert store.read("jobs/a/job.json") is None
    assert store.put_if_absent("jobs/a/job.json", b"one")
    assert store.read("jobs/a/job.json") == b"one"
    assert store.exists("jobs/a")


def test_the_first_writer_wins_and_the_second_is_told(store: ArtifactStore) -> None:
    assert store.put_if_absent("result.json", b"first")
    assert not store.put_if_absent("result.json", b"second")
    assert store.read("result.json") == b"first"


def test_of_many_writers_at_once_exactly_one_wins(store: ArtifactStore) -> None:
    def claim(number: int) -> bool:
        return store.put_if_absent("claim", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(40)))
    assert won.count(True) == 1
    assert store.read("claim") == b"%d" % won.index(True)
    assert os.listdir(store.root) == ["claim"]


def test_replace_overwrites(store: ArtifactStore) -> None:
    store.replace("alias.json", b"1")
    store.replace("alias.json", b"2")
    assert store.read("alias.json") == b"2"
    assert os.listdir(store.root) == ["alias.json"]


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a/../../b", "a\0b"])
def test_keys_cannot_leave_the_store(store: ArtifactStore, key: str) -> None:
    with pytest.raises(InvalidInput, match="leaves the artifact store"):
        store.read(key)
    with pytest.raises(InvalidInput):
        store.put_if_absent(key, b"x")


def test_names_are_sorted_and_hide_what_is_unfinished(store: ArtifactStore) -> None:
    for key in ("d/b", "d/a", "d/c/x"):
        store.put_if_absent(key, b"")
    (store.root / "d" / ".b.0123.tmp").touch()
    assert store.names("d") == ["a", "b", "c"]
    assert store.names("nowhere") == []
    assert store.names("d/a") == []


def test_remove_takes_files_and_folders_and_minds_no_absence(store: ArtifactStore) -> None:
    store.put_if_absent("d/a", b"")
    store.put_if_absent("d/c/x", b"")
    store.remove("d/a")
    assert store.names("d") == ["c"]
    store.remove("d")
    store.remove("d")
    store.remove("d/c/x")
    assert not store.exists("d")
    assert os.listdir(store.root) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_nothing(
    store: ArtifactStore, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="is full") as caught:
        store.put_if_absent("big", b"data")
    assert caught.value.code == "DISK_FULL"
    assert os.listdir(store.root) == []


@pytest.mark.parametrize("act", ["put", "replace", "append", "remove"])
def test_a_read_only_disk_is_named_and_leaves_nothing(
    store: ArtifactStore, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    store.put_if_absent("old", b"data")
    removing = act == "remove"
    monkeypatch.setattr(Path if removing else os, "unlink" if removing else "fsync", refuse)
    acts: dict[str, Callable[[], object]] = {
        "put": lambda: store.put_if_absent("new", b"data"),
        "replace": lambda: store.replace("old", b"new"),
        "append": lambda: store.append("log", b"line"),
        "remove": lambda: store.remove("old"),
    }
    with pytest.raises(Unavailable, match="is read-only") as caught:
        acts[act]()
    assert caught.value.code == "STORE_UNAVAILABLE"
    assert store.read("old") == b"data"
    assert not store.exists("new")


def test_another_failure_of_the_disk_stays_itself(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        store.replace("a", b"data")
    assert os.listdir(store.root) == []


def test_check_makes_the_root_or_says_what_to_set(store: ArtifactStore, tmp_path: Path) -> None:
    store.check()
    assert os.listdir(store.root) == []
    assert store.free_bytes() > 0
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be written") as caught:
        ArtifactStore(tmp_path / "file").check()
    assert "SAESERVE_STORE" in caught.value.remedy


def test_a_file_system_without_hard_links_is_refused_by_name(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(Unavailable, match="no hard links") as caught:
        store.check()
    assert caught.value.code == "STORE_WITHOUT_LINKS"
    assert os.listdir(store.root) == []
