"""Who hears that work moves on."""

from __future__ import annotations

import threading
from pathlib import Path

from saeserve.core.data.ahead import Ahead, Background
from saeserve.core.data.disk import sha256_of
from saeserve.core.durable import sync
from saeserve.core.moving import listening, moved


def test_the_listener_hears_while_it_listens() -> None:
    heard: list[int] = []
    moved()
    with listening(lambda: heard.append(1)):
        moved()
        moved()
    moved()
    assert len(heard) == 2


def test_another_thread_is_not_heard_unless_it_works_ahead() -> None:
    heard: list[int] = []
    with listening(lambda: heard.append(1)):
        other = threading.Thread(target=moved)
        other.start()
        other.join()
        assert heard == []
        Ahead(moved, Background()).result()
    assert heard == [1]


def test_hashing_and_syncing_a_file_are_heard(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * 2**20))
    heard: list[int] = []
    with listening(lambda: heard.append(1)):
        sha256_of(path)
        assert len(heard) == 3
        sync(path)
    assert len(heard) == 4
