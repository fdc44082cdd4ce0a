"""Checkpoints are whole or absent, fenced, and the newest sound one of the chain is resumed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.jobs import submission

from saeserve.errors import Unavailable
from saeserve.jobs.checkpoints import valid
from saeserve.jobs.errors import Fenced
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Claim, Lease

Write = Callable[[Path], None]


@pytest.fixture
def job(ledger: Ledger) -> str:
    return ledger.submit(submission(max_attempts=99)).id


def claim(ledger: Ledger, job: str, owner: str = "A") -> Claim:
    return ledger.claim(job, owner, 0.0)


def lease_of(made: Claim) -> Lease:
    return Lease(job=made.job, epoch=made.epoch, owner=made.owner)


def files(content: bytes) -> Write:
    def write(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        (folder / "params.bin").write_bytes(content)
        (folder / "deep").mkdir()
        (folder / "deep" / "state.json").write_bytes(b"{}")

    return write


def save(ledger: Ledger, made: Claim, *steps: int) -> None:
    for step in steps:
        ledger.checkpoint_sink(lease_of(made)).commit(step, files(f"step {step}".encode()))


def key(epoch: int, step: int) -> str:
    return f"jobs/j-1/attempts/{epoch}/checkpoints/{step}"


def steps(ledger: Ledger, epoch: int) -> list[str]:
    return ledger.store.names(f"jobs/j-1/attempts/{epoch}/checkpoints")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_commit_is_valid_and_tells_its_size(ledger: Ledger, job: str) -> None:
    sink = ledger.checkpoint_sink(lease_of(claim(ledger, job)))
    assert sink.commit(100, files(b"12345")) == 7
    assert valid(ledger.store, key(1, 100))
    assert not valid(ledger.store, key(1, 200))


def test_committing_a_step_again_keeps_what_stands(ledger: Ledger, job: str) -> None:
    sink = ledger.checkpoint_sink(lease_of(claim(ledger, job)))
    sink.commit(100, files(b"first"))
    assert sink.commit(100, files(b"second, never written")) == 7
    assert (ledger.store.path(key(1, 100)) / "params.bin").read_bytes() == b"first"


def test_the_next_attempt_resumes_from_the_newest(ledger: Ledger, job: str) -> None:
    save(ledger, claim(ledger, job), 5, 100)
    second = claim(ledger, job)
    assert (second.resume, second.resume_step, second.corrupt) == (key(1, 100), 100, ())


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["params.bin", "deep/state.json"])
def test_a_damaged_newest_falls_back(
    ledger: Ledger, job: str, harm: Callable[[Path], None], name: str
) -> None:
    save(ledger, claim(ledger, job), 100, 200)
    harm(ledger.store.path(key(1, 200)) / name)
    second = claim(ledger, job)
    assert (second.resume, second.corrupt) == (key(1, 100), (key(1, 200),))


@pytest.mark.parametrize("harm", [cut, flip])
def test_a_damaged_manifest_falls_back(
    ledger: Ledger, job: str, harm: Callable[[Path], None]
) -> None:
    save(ledger, claim(ledger, job), 100, 200)
    harm(ledger.store.path(key(1, 200)) / "manifest.json")
    assert claim(ledger, job).resume == key(1, 100)


def test_all_damaged_starts_afresh_and_says_so(ledger: Ledger, job: str) -> None:
    save(ledger, claim(ledger, job), 100, 200)
    for step in (100, 200):
        cut(ledger.store.path(key(1, step)) / "params.bin")
    second = claim(ledger, job)
    assert (second.resume, second.corrupt) == ("", (key(1, 200), key(1, 100)))


def test_a_folder_without_manifest_is_no_checkpoint(ledger: Ledger, job: str) -> None:
    save(ledger, claim(ledger, job), 100)
    files(b"half")(_made(ledger.store.path(key(1, 200))))
    assert claim(ledger, job).resume == key(1, 100)


def test_the_chain_goes_back_over_attempts_without_checkpoints(ledger: Ledger, job: str) -> None:
    save(ledger, claim(ledger, job), 100)
    claim(ledger, job)
    third = claim(ledger, job)
    assert (third.resume, third.resume_step) == (key(1, 100), 100)


def test_the_chain_falls_back_across_attempts(ledger: Ledger, job: str) -> None:
    save(ledger, claim(ledger, job), 100)
    save(ledger, claim(ledger, job), 200)
    cut(ledger.store.path(key(2, 200)) / "params.bin")
    third = claim(ledger, job)
    assert (third.resume, third.corrupt) == (key(1, 100), (key(2, 200),))


def test_a_superseded_attempt_commits_nothing(ledger: Ledger, job: str) -> None:
    first = claim(ledger, job)
    save(ledger, first, 100)
    claim(ledger, job, "B")
    with pytest.raises(Fenced, match="attempt 1 of job j-1 is superseded by attempt 2"):
        save(ledger, first, 200)
    assert steps(ledger, 1) == ["100"]


def test_an_attempt_superseded_while_it_writes_commits_nothing(ledger: Ledger, job: str) -> None:
    first = claim(ledger, job)
    save(ledger, first, 100)

    def write(folder: Path) -> None:
        files(b"late")(folder)
        claim(ledger, job, "B")

    with pytest.raises(Fenced):
        ledger.checkpoint_sink(lease_of(first)).commit(200, write)
    assert steps(ledger, 1) == ["100"]


@pytest.mark.parametrize("before", [(), (100,)])
def test_what_slips_past_the_fence_is_outside_the_chain(
    ledger: Ledger, job: str, before: tuple[int, ...]
) -> None:
    save(ledger, claim(ledger, job), *before, 200)
    held = ledger.store.path(key(1, 200)).rename(ledger.store.root / "held")
    second = claim(ledger, job, "B")
    # The directory of a POSIX store cannot refuse it: as if it had landed just after the claim.
    held.rename(ledger.store.path(key(1, 200)))
    assert valid(ledger.store, key(1, 200))
    assert claim(ledger, job, "C").resume == second.resume == "".join(key(1, s) for s in before)


def test_the_last_two_stay(ledger: Ledger, job: str) -> None:
    save(ledger, claim(ledger, job), 100, 200, 300)
    assert steps(ledger, 1) == ["200", "300"]
    second = claim(ledger, job)
    save(ledger, second, 400)
    assert (steps(ledger, 1), steps(ledger, 2)) == (["300"], ["400"])
    save(ledger, second, 500)
    assert (steps(ledger, 1), steps(ledger, 2)) == ([], ["400", "500"])
    assert claim(ledger, job).resume == key(2, 500)


def test_what_a_killed_attempt_left_is_swept(ledger: Ledger, job: str) -> None:
    claim(ledger, job)
    files(b"half")(_made(ledger.store.path(key(1, 100))))
    save(ledger, claim(ledger, job), 200)
    assert steps(ledger, 1) == []


def test_a_failed_write_leaves_nothing(ledger: Ledger, job: str) -> None:
    first = claim(ledger, job)
    save(ledger, first, 100)

    def write(folder: Path) -> None:
        files(b"x")(folder)
        raise ValueError("the trainer's own fault")

    with pytest.raises(ValueError, match="own fault"):
        ledger.checkpoint_sink(lease_of(first)).commit(200, write)
    assert steps(ledger, 1) == ["100"]


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, "DISK_FULL"), (errno.EROFS, "STORE_UNAVAILABLE")]
)
def test_a_disk_that_takes_nothing_is_named_and_nothing_is_left(
    ledger: Ledger, job: str, code: int, reason: str
) -> None:
    first = claim(ledger, job)
    save(ledger, first, 100)

    def write(folder: Path) -> None:
        files(b"x")(folder)
        raise OSError(code, os.strerror(code))

    with pytest.raises(Unavailable) as caught:
        ledger.checkpoint_sink(lease_of(first)).commit(200, write)
    assert caught.value.code == reason
    assert steps(ledger, 1) == ["100"]
    save(ledger, first, 200)
    assert valid(ledger.store, key(1, 200))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
