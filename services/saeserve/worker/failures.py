"""Exceptions of a job process as failures that its submitter can read."""

from __future__ import annotations

import errno
import signal
import uuid

from saeserve.errors import SaeError, SaeserveError
from saeserve.jobs.record import Failure
from saeserve.platform.exhaustion import Memory, exhausted, last_words_of_host
from saeserve.platform.paths import PathCover
from saeserve.platform.store_errors import disk_full as store_full
from saeserve.platform.store_errors import read_only
from saeserve.worker.order import ExitCode

_LOADER_GAVE_UP = 127
"""Exit code of glibc's loader where it cannot allocate memory."""
_OF_THE_STORE = ("DISK_FULL", "STORE_UNAVAILABLE")


def failure_of(error: BaseException, step: int, *, device_shared: bool = True) -> Failure:
    """The failure for `error`, raised near `step`; what is unknown gets an id and no text.

    `device_shared` says whether others hold memory of the job's device: only then can another
    attempt find more of it.
    """
    if (memory := exhausted(error)) is not None:
        return _out_of_memory(memory, error, step, device_shared=device_shared)
    if isinstance(error, SaeserveError):
        return _known(error, step)
    return _of_disk(error, step) or _unknown(error, step)


def explains_itself(failure: Failure) -> bool:
    """Whether its message says all: nobody finds a full disk's cause in a traceback."""
    return failure.code in _OF_THE_STORE


def covered(failure: Failure, cover: PathCover) -> Failure:
    """The failure as its submitter may read it, without folders of this machine."""
    texts = {name: cover.covered(getattr(failure, name)) for name in ("message", "cause", "remedy")}
    return failure.model_copy(update=texts)


def crash(code: int, step: int) -> Failure:
    """The failure of a job process that died without saying why; `code` is its exit code."""
    how = f"by {_signal_name(-code)}" if code < 0 else f"with exit code {code}"
    return Failure(
        code="CHILD_CRASHED",
        message=f"the job process ended {how} without saying why",
        cause=_signal_name(-code) if code < 0 else f"exit code {code}",
        remedy="look at the end of the job's log; SIGKILL often means that memory ran out",
        retryable=True,
        step=step,
    )


def interrupted(step: int) -> Failure:
    """The failure of a job process that something other than its worker asked to stop."""
    return Failure(
        code="INTERRUPTED",
        message="something outside of the worker stopped the job process",
        remedy="stop the worker itself: it then gives its job to another at no cost",
        retryable=True,
        step=step,
    )


def stalled(seconds: float, step: int) -> Failure:
    """The failure of an attempt in which nothing moved any more."""
    return Failure(
        code="STALLED",
        message=f"no step, row, file or checkpoint moved for {seconds:.0f} s",
        remedy="look at the job's log; where its steps or files take as long as that, raise "
        "SAESERVE_STALL_MINIMUM_SECONDS of the worker",
        retryable=True,
        step=step,
    )


def unsaid(code: int, step: int, last_words: str = "") -> Failure:
    """The failure of a job process that left none in the store; `code` is its exit code and
    `last_words` the end of what it wrote to standard error.

    LLVM and C++ do not raise where memory runs out: they say so there and abort.
    """
    if code == ExitCode.STOPPED:
        return interrupted(step)
    if code == ExitCode.DISK_FULL:
        return disk_full("not even the reason could be written", step)
    if code in (-signal.SIGABRT, _LOADER_GAVE_UP) and (words := last_words_of_host(last_words)):
        return _no_memory(Memory.HOST, words, step, alone=False)
    return crash(code, step)


def _known(error: SaeserveError, step: int) -> Failure:
    cause = error.__cause__ if isinstance(error, SaeError) else None
    return Failure(
        code=error.code,
        message=error.message,
        cause=type(cause).__name__ if cause is not None else "",
        remedy=error.remedy,
        retryable=error.retryable,
        step=int(getattr(error, "step", step)),
    )


def _out_of_memory(
    memory: Memory, error: BaseException, step: int, *, device_shared: bool
) -> Failure:
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    alone = memory is Memory.DEVICE and not device_shared
    return _no_memory(memory, words, step, alone=alone)


def _no_memory(memory: Memory, words: str, step: int, *, alone: bool) -> Failure:
    return Failure(
        code="OOM_GPU" if memory is Memory.DEVICE else "OOM_HOST",
        message=f"{memory} ran out of memory" + (", which the job had to itself" if alone else ""),
        cause=words,
        remedy="lower micro_batch_size, batch_size or d_sae, or use a larger machine",
        retryable=not alone,
        step=step,
    )


def disk_full(cause: str, step: int) -> Failure:
    """The failure of an attempt that found no room in the store."""
    return _known(store_full(), step).model_copy(update={"cause": cause})


def _of_disk(error: BaseException, step: int) -> Failure | None:
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EROFS:
        return _known(read_only(), step)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(error.strerror or "", step)
    return None


def _unknown(error: BaseException, step: int) -> Failure:
    return Failure(
        code=SaeError.code,
        message=f"internal error {uuid.uuid4().hex[:12]}; the worker's log has it under this id",
        cause=type(error).__name__,
        remedy="report the error id to the operator",
        retryable=isinstance(error, OSError),
        step=step,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
