"""Where downloads gather on the client's machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from saeserve.client.errors import AlreadyExistsError, ClientError, PreconditionError
from saeserve.client.local_files import STATE, Listing, LocalFolder, RemoteFile, local_errors

CONFIG = RemoteFile("config.json", 2, "a", "")
WEIGHTS = RemoteFile("deep/weights.bin", 4, "b", "")
LISTING = Listing("models/sae/versions/1", (CONFIG, WEIGHTS))
BAD_NAMES = ["../x", "/etc/passwd", "a/../../x", "a//x", "./x", "", "a\\..\\x"]


def put(local: LocalFolder, file: RemoteFile, data: str) -> None:
    path = local.path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_listed_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    listing = Listing("models/sae/versions/1", (RemoteFile(name, 1, "a", ""),))
    local = LocalFolder(tmp_path / "here", listing)
    with pytest.raises(ClientError) as caught:
        local.missing()
    assert caught.value.reason == "BAD_NAME"


def test_a_name_of_an_earlier_call_cannot_either(tmp_path: Path) -> None:
    part = tmp_path / "here.part"
    part.mkdir()
    (tmp_path / "victim").write_text("mine")
    state = {"resource": "models/sae/versions/1", "etags": {"../victim": "x"}}
    (part / STATE).write_text(json.dumps(state))
    with pytest.raises(ClientError, match="victim"):
        LocalFolder(tmp_path / "here", LISTING)
    assert (tmp_path / "victim").exists()


def test_the_folder_has_its_name_only_when_whole(tmp_path: Path) -> None:
    local = LocalFolder(tmp_path / "here", LISTING)
    put(local, CONFIG, "{}")
    again = LocalFolder(tmp_path / "here", LISTING)
    assert again.missing() == [WEIGHTS]
    assert not again.target.exists()
    put(again, WEIGHTS, "data")
    assert again.missing() == []
    again.finish()
    assert sorted(path.name for path in again.target.rglob("*")) == [
        "config.json",
        "deep",
        "weights.bin",
    ]
    assert not again.part.exists()


def test_only_what_changed_is_brought_again(tmp_path: Path) -> None:
    local = LocalFolder(tmp_path / "here", LISTING)
    put(local, CONFIG, "{}")
    put(local, WEIGHTS, "data")
    changed = RemoteFile(WEIGHTS.name, 4, "other", "")
    later = LocalFolder(tmp_path / "here", Listing(LISTING.resource, (CONFIG, changed)))
    assert later.missing() == [changed]
    gone = LocalFolder(tmp_path / "here", Listing(LISTING.resource, (changed,)))
    assert not (gone.part / "config.json").exists()


def test_what_no_download_made_is_not_touched(tmp_path: Path) -> None:
    part = tmp_path / "here.part"
    part.mkdir()
    for text in (None, "no JSON", "[]", '{"resource": "x"}'):
        if text is not None:
            (part / STATE).write_text(text)
        (part / "mine.txt").write_text("mine")
        with pytest.raises(AlreadyExistsError):
            LocalFolder(tmp_path / "here", LISTING)
        assert (part / "mine.txt").read_text() == "mine"


def test_a_folder_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    local = LocalFolder(tmp_path / "here", Listing("exports/a/1/saelens", ()))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.txt").write_text("mine")
    with pytest.raises(AlreadyExistsError):
        local.finish()
    assert (tmp_path / "here" / "mine.txt").exists()


def test_a_disk_without_room_is_told_before_it_is_filled(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    huge = RemoteFile("weights.bin", free + 2**50, "b", "")
    local = LocalFolder(tmp_path / "here", Listing(LISTING.resource, (huge,)))
    with pytest.raises(PreconditionError) as caught:
        local.check_room()
    assert caught.value.reason == "LOCAL_DISK_FULL"


def test_refusals_of_this_machine_are_errors_of_the_client(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(PreconditionError) as caught,
        local_errors("the download cannot be written"),
    ):
        LocalFolder(tmp_path / "file" / "here", LISTING)
    assert caught.value.reason == "LOCAL_FILE"
    assert "Not a directory" in caught.value.message
