"""Whether Triton's kernels can run, and on which tensors.

Triton is not required: torch brings it along in its builds for CUDA. Where it is missing, or
cannot start kernels, plain torch computes. It is not imported for tensors on the CPU, for that
takes a second.
"""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from torch import Tensor

from saeserve.core.gpu.launch import counting

_log = logging.getLogger(__name__)
OLDEST_CAPABILITY = (8, 0)
"""Capability of the GPUs for which the kernels are meant: Ampere."""
_plain: ContextVar[bool] = ContextVar("plain", default=False)
refusals: list[str] = []
"""Why plain torch computes in this process in place of the kernels; empty as a rule."""


def refuse(why: str) -> None:
    """Let plain torch compute from now on, in this whole process."""
    refusals.append(why)
    _log.warning("Triton's kernels are not used: %s", why)


@contextmanager
def switched_off() -> Generator[None]:
    """Let plain torch compute here: what kernels are compared with."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


@cache
def available() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether Triton has been imported with its interpreter, which runs kernels on the CPU: slowly,
    for tests (TRITON_INTERPRET=1)."""
    if "triton" not in sys.modules:
        return False
    import triton

    return triton.knobs.runtime.interpret


@cache
def starts_kernels() -> bool:
    """Whether Triton can start kernels on this machine's GPU. It needs a small C module for that,
    built ahead (`launcher`) or here and now; a warning says what is missing."""
    from triton.runtime import driver

    from saeserve.core.gpu import launcher

    try:
        if launcher.compiler() is None:
            launcher.take()
        driver.active.utils  # noqa: B018 - builds it
    except (RuntimeError, OSError, AssertionError, subprocess.CalledProcessError) as error:
        _log.warning(
            "Triton cannot start kernels, so plain torch computes. It needs a C compiler and "
            "Python's header files (Debian: gcc, libc6-dev, python3-dev), or once "
            "`python -m saeserve.core.gpu.launcher` where these are: %s",
            error,
        )
        return False
    return True


def accelerates(device: torch.device) -> bool:
    """Whether this is a GPU, whose numbers the host has to wait for. The meta device stands for
    one, since nothing but counting work is done there."""
    return device.type in ("cuda", "meta")


def usable_on_device(*tensors: Tensor) -> bool:
    """Whether kernels can run on these: float32 and contiguous, all on one GPU that is new enough,
    on the CPU under the interpreter, or on the meta device while kernels are counted."""
    places = {tensor.device for tensor in tensors}
    if len(places) != 1 or not runs_kernels(places.pop()):
        return False
    return all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors)


def runs_kernels(device: torch.device) -> bool:
    """Whether kernels can run on float32 tensors there, and nothing has refused them."""
    if _plain.get() or refusals:
        return False
    return available() and _runs_on(device)


def _runs_on(device: torch.device) -> bool:
    if device.type == "cpu":
        return interpreting()
    if device.type == "meta":
        return counting()
    # ROCm's devices are called cuda as well.
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY and starts_kernels()
