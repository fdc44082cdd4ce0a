"""Memory that ran out is known by whatever a library raises for it, and nothing else is."""

from __future__ import annotations

import errno

import grpc
import pytest
from safetensors import SafetensorError

from saeserve.errors import DataError, FormatError, NotFound, Overloaded
from saeserve.platform.exhaustion import Memory, exhausted
from saeserve.platform.status import CODES, service_error


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


class AcceleratorError(RuntimeError):
    """As torch's is called."""


DEVICE = [
    OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ..."),
    OutOfMemoryError("HIP out of memory. Tried to allocate 2.00 GiB."),
    OutOfMemoryError("Allocation on device 0 would exceed allowed memory."),
    AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GiB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDn...`"),
    RuntimeError("CUDA error: insufficient resources: CUSPARSE_STATUS_INSUFFICIENT_RESOURCES"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("NCCL error: unhandled cuda error, CUDA failure 2 'out of memory'"),
]
HOST = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("unable to mmap 4096 bytes from file <x>: Cannot allocate memory (12)"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ImportError("libx.so: cannot create shared object descriptor: Cannot allocate memory"),
    OSError("libx.so: failed to map segment from shared object: Cannot allocate memory"),
    SafetensorError("Error while deserializing header: Cannot allocate memory (os error 12)"),
]
OTHER = [
    ValueError("CUDA out of memory"),
    FileNotFoundError(errno.ENOENT, "No such file", "/data/CUDA out of memory"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    ImportError("libx.so: cannot allocate memory in static TLS block"),
    ImportError("No module named 'x'"),
    DataError("is NaN", shard="CUDA out of memory"),
    NotFound("there is no model std::bad_alloc"),
]


@pytest.mark.parametrize("error", DEVICE, ids=str)
def test_the_device(error: Exception) -> None:
    assert exhausted(error) is Memory.DEVICE


@pytest.mark.parametrize("error", HOST, ids=repr)
def test_the_host(error: Exception) -> None:
    assert exhausted(error) is Memory.HOST


@pytest.mark.parametrize("error", OTHER, ids=repr)
def test_other_errors(error: Exception) -> None:
    assert exhausted(error) is None


def test_what_an_error_was_raised_from_counts() -> None:
    error = RuntimeError("Failed to import transformers.models.x")
    error.__cause__ = ImportError("libx.so: failed to map segment from shared object")
    assert exhausted(error) is Memory.HOST


def test_what_an_error_was_raised_while_handling_counts() -> None:
    """So does llvmlite, which then says that its library was not found."""
    error = OSError("Could not find/load shared object file 'libllvmlite.so'")
    error.__context__ = OSError("libllvmlite.so: failed to map segment from shared object")
    assert exhausted(error) is Memory.HOST
    error.__suppress_context__ = True
    assert exhausted(error) is None


def test_a_file_that_a_parser_refuses_by_memory_error_is_malformed() -> None:
    error = FormatError("has no numpy header")
    error.__cause__ = MemoryError("s_push: parser stack overflow")
    assert exhausted(error) is None


@pytest.mark.parametrize("error", [DEVICE[3], DEVICE[7], HOST[0], HOST[2]], ids=repr)
def test_callers_are_asked_to_come_again(error: Exception) -> None:
    answer = service_error(error)
    assert isinstance(answer, Overloaded)
    assert answer.code == "OUT_OF_MEMORY"
    assert answer.retry_after_s > 0
    assert CODES[answer.kind] is grpc.StatusCode.RESOURCE_EXHAUSTED
