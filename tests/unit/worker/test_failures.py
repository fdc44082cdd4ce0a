"""Failures as their submitter reads them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from saeserve.errors import (
    DataError,
    DivergedError,
    FailedPrecondition,
    NoSpaceError,
    NotFound,
    SaeError,
    ServiceError,
    Unavailable,
)
from saeserve.jobs.decisions import worker_lost
from saeserve.platform.paths import PathCover
from saeserve.worker.failures import covered, crash, failure_of, interrupted, unsaid


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (DataError("is NaN", shard="a.npy", row=3), "BAD_DATA", False),
        (NoSpaceError("full"), "DISK_FULL", True),
        (NotFound("no data set", code="DATASET_NOT_FOUND"), "DATASET_NOT_FOUND", False),
        (FailedPrecondition("not READY"), "FAILED_PRECONDITION", False),
        (Unavailable("full", code="DISK_FULL"), "DISK_FULL", True),
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL", True),
        (OSError(errno.EROFS, "Read-only file system"), "STORE_UNAVAILABLE", True),
        (OSError(errno.EIO, "Input/output error"), "INTERNAL", True),
        (MemoryError(), "OOM_HOST", True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "OOM_HOST", True),
        (ImportError("libx.so: failed to map segment from shared object"), "OOM_HOST", True),
        (ImportError("No module named 'x'"), "INTERNAL", False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "OOM_HOST", True),
        (OutOfMemoryError("CUDA out of memory"), "OOM_GPU", True),
        (RuntimeError("CUDA error: out of memory"), "OOM_GPU", True),
        (ValueError("secret text"), "INTERNAL", False),
    ],
)
def test_codes_and_whether_another_attempt_may_help(
    error: Exception, code: str, retryable: bool
) -> None:
    failure = failure_of(error, 4)
    assert (failure.code, failure.retryable, failure.step) == (code, retryable, 4)
    assert failure.remedy or isinstance(error, SaeError | ServiceError)


def test_what_was_wrong_and_what_to_do_reach_the_submitter() -> None:
    error = DivergedError(7, "the loss is nan", remedy="lower lr")
    failure = failure_of(error, 4)
    assert (failure.step, failure.remedy) == (7, "lower lr")
    assert "the loss is nan" in failure.message


def test_the_text_of_an_unknown_error_stays_inside() -> None:
    first, second = (failure_of(ValueError("secret text"), 0) for _ in range(2))
    assert "secret" not in first.model_dump_json()
    assert first.cause == "ValueError"
    assert first.message != second.message


def test_crashes_are_told_by_signal_or_code() -> None:
    assert crash(-9, 3).cause == "SIGKILL"
    assert crash(-99, 3).cause == "signal 99"
    assert "exit code 1" in crash(1, 3).message
    assert crash(1, 3).retryable
    assert interrupted(3).retryable
    assert worker_lost(3).code == "WORKER_LOST"


def test_the_submitter_sees_keys_and_roots_rather_than_folders() -> None:
    error = DataError("/srv/store/datasets/a/shards/0.safetensors: is missing", shard="0")
    error.__cause__ = FileNotFoundError("/srv/store/x")
    failure = failure_of(error, 4).model_copy(update={"remedy": "look at /mnt/lib/b"})
    seen = covered(failure, PathCover.of(Path("/srv/store"), {"lib": Path("/mnt/lib")}))
    assert "/srv" not in seen.model_dump_json()
    assert "/mnt" not in seen.model_dump_json()
    assert "store/datasets/a/shards/0.safetensors" in seen.message
    assert seen.remedy == "look at lib:b"
    assert (seen.code, seen.step) == (failure.code, failure.step)


@pytest.mark.parametrize("shared", [True, False])
def test_a_device_is_tried_again_where_others_may_make_room(shared: bool) -> None:
    failure = failure_of(OutOfMemoryError("CUDA out of memory"), 4, device_shared=shared)
    assert (failure.code, failure.retryable) == ("OOM_GPU", shared)
    assert failure_of(MemoryError(), 4, device_shared=shared).retryable


def test_memory_that_ran_out_below_an_error_of_ours_is_what_failed() -> None:
    error = DataError("cannot be read", shard="a.safetensors")
    error.__cause__ = OSError(errno.ENOMEM, "Cannot allocate memory")
    assert failure_of(error, 4).code == "OOM_HOST"


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        (
            -6,
            "LLVM ERROR: Unable to allocate section memory!\nFatal Python error: Aborted",
            "OOM_HOST",
        ),
        (
            -6,
            "LLVM ERROR: out of memory\nAllocation failed\nFatal Python error",
            "OOM_HOST",
        ),
        (-6, "terminate called\n  what():  std::bad_alloc\n", "OOM_HOST"),
        (127, "cannot allocate memory for thread-local data: ABORT", "OOM_HOST"),
        (-6, "free(): invalid pointer", "CHILD_CRASHED"),
        (-6, "", "CHILD_CRASHED"),
        # It was survived, or is somebody else's.
        (-11, "LLVM ERROR: out of memory", "CHILD_CRASHED"),
        (1, "LLVM ERROR: out of memory", "CHILD_CRASHED"),
    ],
)
def test_an_abort_is_out_of_memory_where_its_last_words_say_so(
    code: int, words: str, expected: str
) -> None:
    failure = unsaid(code, 3, words)
    assert (failure.code, failure.step, failure.retryable) == (expected, 3, True)
    if expected == "OOM_HOST":
        assert failure.cause in words
