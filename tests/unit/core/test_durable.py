"""New folders keep their names after a loss of power; temporaries in use are known as such."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saeserve.core.data import disk
from saeserve.core.durable import held, in_use, is_temporary, make_folders, temporary_beside
from saeserve.platform.store import ArtifactStore


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was synced, in order."""
    found: list[Path] = []
    fsync = os.fsync

    def noting(handle: int) -> None:
        found.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    return found


def test_the_parent_of_every_new_folder_is_synced(tmp_path: Path, synced: list[Path]) -> None:
    make_folders(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    make_folders(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3


def test_a_commit_syncs_the_parents_of_its_new_folders(tmp_path: Path, synced: list[Path]) -> None:
    store = ArtifactStore(tmp_path)
    store.put_if_absent("jobs/j-1/job.json", b"{}")
    assert {tmp_path, tmp_path / "jobs", tmp_path / "jobs" / "j-1"} <= set(synced)
    synced.clear()
    disk.create(tmp_path / "datasets" / "d" / "shards" / "0", b"rows")
    assert {tmp_path, tmp_path / "datasets", tmp_path / "datasets" / "d"} <= set(synced)


def test_a_folder_whose_parent_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_folders(tmp_path / "file" / "below")


def test_a_temporary_is_in_use_while_it_is_held(tmp_path: Path) -> None:
    for make in (Path.touch, Path.mkdir):
        temporary = temporary_beside(tmp_path / "x")
        assert is_temporary(temporary.name)
        make(temporary)
        with held(temporary):
            assert in_use(temporary)
        assert not in_use(temporary)
    assert not in_use(tmp_path / "gone")


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    temporary = tmp_path / ".x.tmp"
    temporary.touch()
    code = (
        "import sys, pathlib, time; from saeserve.core.durable import held\n"
        "with held(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, temporary], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert in_use(temporary)
    process.kill()
    process.wait()
    process.stdout.close()
    assert not in_use(temporary)


def test_a_link_is_in_nobodys_use(tmp_path: Path) -> None:
    (tmp_path / ".x.tmp").symlink_to(tmp_path / "elsewhere")
    assert not in_use(tmp_path / ".x.tmp")
