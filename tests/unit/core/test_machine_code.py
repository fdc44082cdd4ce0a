"""An entry of numba's index points at the code of its own signature, whoever saves at once, and
wherever a process is killed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from numba.core.caching import IndexDataCacheFile

from saeserve.core.machine_code import KeptCode

SAVES = 40


def kept(folder: Path, sources: str = "now") -> KeptCode:
    numbas = IndexDataCacheFile(str(folder), "f-1.py311", ("stamp",))
    return KeptCode.in_place_of(numbas, sources)


def codes(folder: Path) -> Iterator[str]:
    return (path.name for path in folder.iterdir() if path.suffix == ".nbc")


class Killed(BaseException):
    """Takes the place of SIGKILL."""


@pytest.mark.parametrize("point", ["_save_data", "_save_index"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_killed_process_leaves_no_entry_of_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, done: bool
) -> None:
    kept(tmp_path, "earlier").save("old signature", "old code")
    dying = kept(tmp_path)
    write = getattr(dying, point)

    def killed(*values: object) -> None:
        if done:
            write(*values)
        raise Killed

    monkeypatch.setattr(dying, point, killed)
    with pytest.raises(Killed):
        dying.save("signature", "code")
    assert kept(tmp_path).load("signature") in (None, "code")
    assert kept(tmp_path, "earlier").load("old signature") in (None, "old code")
    kept(tmp_path).save("signature", "code")
    assert kept(tmp_path).load("signature") == "code"


def test_processes_that_save_at_once_keep_every_signature(tmp_path: Path) -> None:
    barrier = Barrier(2)

    def save(process: int) -> None:
        file = kept(tmp_path)
        for number in range(SAVES):
            barrier.wait()
            file.save((process, number), f"code {process} {number}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(save, range(2)))
    for process in range(2):
        for number in range(SAVES):
            assert kept(tmp_path).load((process, number)) == f"code {process} {number}"


def test_the_code_of_earlier_sources_does_not_gather(tmp_path: Path) -> None:
    other = KeptCode(str(tmp_path), "f-1.py3110", ("stamp",))
    other.save("signature", "another function's")
    for sources in ("first", "second", "third"):
        kept(tmp_path, sources).save("float32", "code")
        kept(tmp_path, sources).save("float64", "code")
    assert len(list(codes(tmp_path))) == 3
    assert other.load("signature") == "another function's"
