"""What a run's bits depend on besides its spec and its data."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata

import torch

from saeserve.core.gpu.device import available
from saeserve.core.ops.precision import encoder_dtype
from saeserve.core.specs.base import Spec
from saeserve.core.specs.training import TrainSpec


class Card(Spec):
    """The GPU of a run, and what computes on it; "" where that is not known."""

    name: str
    cuda: str
    cublas: str
    triton: str
    """"" where Triton is not installed."""

    @classmethod
    def of(cls, device: torch.device) -> Card | None:
        """That of a device; None for any other than a GPU."""
        if device.type != "cuda":
            return None
        cuda = torch.version.cuda or ""
        return cls(
            name=torch.cuda.get_device_name(device),
            cuda=cuda,
            cublas=cublas_version(cuda),
            triton=str(importlib.import_module("triton").__version__) if available() else "",
        )


class Environment(Spec):
    """What must be equal for a resumed run to be bit-identical."""

    threads: int
    instruction_set: str
    code_version: str
    torch_version: str
    encoder_dtype: str = "float32"
    """What the spec's type came to here."""
    card: Card | None = None
    """None on a CPU, and in checkpoints that were written before it was noted."""

    @classmethod
    def of(cls, spec: TrainSpec, device: torch.device) -> Environment:
        """That of a run of `spec` on `device` in this process."""
        dtype = encoder_dtype(spec, device)
        return cls(
            threads=torch.get_num_threads(),
            instruction_set=torch.backends.cpu.get_cpu_capability(),
            code_version=_code_version(),
            torch_version=str(torch.__version__),
            encoder_dtype=str(dtype).removeprefix("torch."),
            card=Card.of(device),
        )


def cublas_version(cuda: str) -> str:
    """The version of the cuBLAS that is loaded for this version of CUDA; "" where there is none.

    torch does not say it: the library is asked itself.
    """
    try:
        library = ctypes.CDLL(f"libcublas.so.{cuda.partition('.')[0]}")
    except OSError:
        return ""
    numbers: list[str] = []
    for part in range(3):
        value = ctypes.c_int()
        if library.cublasGetProperty(part, ctypes.pointer(value)) != 0:
            return ""
        numbers.append(str(value.value))
    return ".".join(numbers)


def _code_version() -> str:
    """The installed package's version; of a source tree that is not installed, that it is one."""
    try:
        return importlib.metadata.version("saeserve")
    except importlib.metadata.PackageNotFoundError:
        return "source"
