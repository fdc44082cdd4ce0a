"""Loops compiled by numba, where torch has no fused operation; plain torch takes their place where
numba is not installed.

Kernels work on numpy views of CPU tensors (`array`), are compiled once a machine (numba's cache)
and run on as many threads as torch does. Fast-math must not see what may be NaN or infinite and
has to be found: checks of finiteness stay outside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

try:
    import numba
except ImportError:
    numba = None

P = ParamSpec("P")
R = TypeVar("R")

Array = NDArray[Any]
FAST_MATH = frozenset({"reassoc", "contract", "nsz", "arcp"})
"""Sums in any order, so that they vectorise; NaN and Inf keep their meaning."""

prange = range if numba is None else numba.prange


def available() -> bool:
    """Whether kernels are compiled here."""
    return numba is not None


def usable(*tensors: Tensor) -> bool:
    """Whether kernels can run on these: compiled, on the CPU, float32 or float64, contiguous."""
    kinds = (torch.float32, torch.float64)
    return available() and all(
        t.device.type == "cpu" and t.dtype in kinds and t.is_contiguous() for t in tensors
    )


def array(tensor: Tensor) -> Array:
    """The tensor's memory as an array; bfloat16, which numpy lacks, as the int16 of its bits.

    Positive bfloat16 are ordered as their bits are, and all of them above the negative ones.
    """
    plain = tensor.detach()
    return (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of arrays and scalars; `prange` inside runs on torch's threads."""
    if numba is None:
        return function
    compiled = _compile(function, parallel=True)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        _match_threads()
        return cast("R", compiled(*args, **kwargs))

    return call


def helper(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that kernels call; LLVM inlines it."""
    if numba is None:
        return function
    return cast("Callable[P, R]", _compile(function, parallel=False))


def _compile(function: Callable[..., Any], *, parallel: bool) -> Callable[..., Any]:
    if numba is None:
        return function
    options: dict[str, Any] = {"parallel": parallel, "fastmath": set(FAST_MATH)}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Nowhere to keep the machine code (a read-only installation without a home directory).
        return numba.njit(**options)(function)


def _match_threads() -> None:
    """Run on as many threads as torch does: more would compete, fewer would wait."""
    if numba is None:
        return
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if torch.get_num_threads() != threads:
        # Starting its pool, numba sets OpenMP's number of threads, which torch shares.
        torch.set_num_threads(threads)
