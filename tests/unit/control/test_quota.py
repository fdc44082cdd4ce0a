"""Upload quotas: what an owner's waiting uploads hold together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from tests.fakes.control import Bench

from saeserve.errors import QuotaExceeded
from saeserve.platform.auth.caller import Caller
from saeserve.platform.auth.rules import Scope
from saeserve.registry.dataset import UploadHeader
from saeserve.registry.upload_paths import Announced

EMPTY = hashlib.sha256(b"x").hexdigest()


def caller(limit: int | None, owner: str = "alice") -> Caller:
    return Caller("t", owner, frozenset({Scope.SUBMIT}), limit)


def announce(bench: Bench, size: int, who: Caller, name: str = "a") -> None:
    file = Announced(name=name, size_bytes=size, sha256=EMPTY)
    bench.parts.transfers.create([file], who)


def begin(bench: Bench, size: int, who: Caller, name: str = "mine", file: str = "a.npy") -> None:
    header = UploadHeader(dataset=name, file_name=file, size_bytes=size, sha256=EMPTY)
    with bench.parts.datasets.begin_upload(header, who):
        pass


@pytest.mark.parametrize("again", [announce, begin])
def test_uploads_of_both_kinds_are_added_up(
    bench: Bench, again: Callable[[Bench, int, Caller], None]
) -> None:
    who = caller(100)
    announce(bench, 40, who, "first")
    begin(bench, 40, who, "other")
    with pytest.raises(QuotaExceeded, match="uploads of alice hold 80; token t allows 100") as e:
        again(bench, 21, who)
    assert e.value.code == "QUOTA_EXCEEDED"
    again(bench, 20, who)


def test_the_same_upload_is_not_counted_twice(bench: Bench) -> None:
    who = caller(100)
    for _ in range(2):
        announce(bench, 50, who)
        begin(bench, 50, who)


def test_others_uploads_and_endless_tokens_do_not_count(bench: Bench) -> None:
    announce(bench, 90, caller(None, "bob"))
    begin(bench, 90, caller(None))
    begin(bench, 90, caller(None), "more")
    announce(bench, 50, caller(50, "carol"))


def test_what_was_deleted_makes_room(bench: Bench) -> None:
    who = caller(100)
    begin(bench, 100, who)
    bench.parts.datasets.delete("mine", who, force=False)
    announce(bench, 100, who)
