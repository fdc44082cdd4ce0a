"""Which errors mean that memory ran out, whatever class a library raises for it.

By names and texts, so that nothing here imports torch. torch raises OutOfMemoryError where its own
allocator fails, AcceleratorError where the driver does, and RuntimeError where cuBLAS, another of
NVIDIA's libraries or the host's allocator does; an import fails with ImportError where the loader
cannot map a library.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from enum import StrEnum

from saeserve.errors import Overloaded, SaeserveError

RETRY_AFTER_S = 1.0
_DEVICE = re.compile(
    # torch's allocator and the driver: "CUDA out of memory. Tried to ...", "HIP out of memory",
    # "CUDA error: out of memory", "CUDA driver error: out of memory".
    r"(cuda|hip|mps|xpu|nccl|driver|accelerator)\b[^\n]*\bout of memory"
    r"|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|hipErrorOutOfMemory"
    # cuBLAS, cuDNN, cuSOLVER, cuSPARSE and cuFFT, which allocate for themselves.
    r"|\b(CU|HIP|ROC)\w*_STATUS_(INTERNAL_ERROR_DEVICE_)?ALLOC(ATION)?_FAILED|CUFFT_ALLOC_FAILED"
    r"|CUSPARSE_STATUS_INSUFFICIENT_RESOURCES"
    # What the making of a handle says on a card without room for its workspace.
    r"|(CUBLAS|CUDNN|CUSOLVER)_STATUS_NOT_INITIALIZED[^\n]*Create",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"DefaultCPUAllocator|std::bad_alloc|cannot allocate memory(?! in static TLS)"
    r"|unable to allocate [^\n]* for an array|failed to map segment from shared object"
    r"|unable to mmap [^\n]* bytes|\bos error 12\b|CUDNN_STATUS\w*_HOST_ALLOCATION_FAILED",
    re.IGNORECASE,
)

_LAST_WORDS = re.compile(
    rf"LLVM ERROR: (out of memory|allocation failed|unable to allocate)|{_HOST.pattern}",
    re.IGNORECASE,
)
"""What libraries write to standard error before they abort: LLVM, C++'s `terminate`, glibc."""

_OF_LIBRARIES = (RuntimeError, ImportError, OSError)
"""Classes whose texts libraries write; OSError where a library was opened, without a number."""


class Memory(StrEnum):
    """Whose memory ran out."""

    DEVICE = "the accelerator"
    HOST = "the host"


def last_words_of_host(text: str) -> str:
    """The last line of a dead process's standard error that says that the host's memory was full;
    "" where none does."""
    lines = (line.strip() for line in reversed(text.splitlines()))
    return next((line for line in lines if _LAST_WORDS.search(line)), "")


def exhausted(error: BaseException) -> Memory | None:
    """Whose memory the error, or what it was raised from, found full; None for other errors.

    Errors of our own are not read, since their texts quote names that users chose; and one that was
    made of a MemoryError says what that meant (Python's parser raises it for nested brackets).
    """
    ours = False
    for one in _chain(error):
        if isinstance(one, SaeserveError):
            ours = True
        elif ours and isinstance(one, MemoryError):
            return None
        elif (found := _exhausted(one)) is not None:
            return found
    return None


def overloaded(memory: Memory, what: str, remedy: str = "retry") -> Overloaded:
    """The refusal of a request for which there was no memory."""
    return Overloaded(
        f"{memory} has no memory for {what} now",
        retry_after_s=RETRY_AFTER_S,
        code="OUT_OF_MEMORY",
        remedy=remedy,
    )


def _exhausted(error: BaseException) -> Memory | None:
    if isinstance(error, MemoryError):
        return Memory.HOST
    if isinstance(error, OSError) and error.errno is not None:
        return Memory.HOST if error.errno == errno.ENOMEM else None
    if not isinstance(error, _OF_LIBRARIES) and type(error).__name__ != "SafetensorError":
        return None
    if _HOST.search(str(error)):
        return Memory.HOST
    if type(error).__name__ == "OutOfMemoryError" or _DEVICE.search(str(error)):
        return Memory.DEVICE
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was raised from or while handling."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        hidden = one.__suppress_context__
        one = one.__cause__ or (None if hidden else one.__context__)
