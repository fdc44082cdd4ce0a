"""Loops compiled by numba, where torch has no fused operation; plain torch takes their place where
numba is not installed.

Kernels work on numpy views of CPU tensors (`array`), are compiled once a machine (numba's cache)
and run on as many threads as torch does.

Floating-point arithmetic keeps its written order: no fast-math flag is set. numba optimises a
parallel kernel's loop once for the process that compiles it and once more for the file from which
later processes load it, so with a freedom such as `reassoc` or `contract` the two give other bits,
and a resumed run would not be the undisturbed one. What has to vectorise or be fused is written
so, with `saeserve.core.kernels.lanes`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from saeserve.core.moving import moved

try:
    import numba
except ImportError:
    numba = None

P = ParamSpec("P")
R = TypeVar("R")

Array = NDArray[Any]


def digest_of(folder: Path) -> str:
    """Digest of the names and contents of all modules in a folder and in those below it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


ROOMS = tuple(Path(__file__).parents[1] / name for name in ("kernels", "features"))
_SOURCES = "".join(digest_of(room) for room in ROOMS)
"""Digests of all files that machine code is made from: kernels are in these packages alone."""

SHARES = 64
"""Parts of equal work that threads take, where a loop has no parts of its own."""

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


def arrays(*tensors: Tensor) -> tuple[Array, ...]:
    """`array` of each, to be unpacked into a kernel's arguments."""
    return tuple(map(array, tensors))


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of arrays and scalars; `prange` inside runs on torch's threads."""
    if numba is None:
        return function
    compiled = _compile(function, parallel=True)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        _match_threads()
        made = cast("R", compiled(*args, **kwargs))
        moved()  # the first call may have compiled for a minute
        return made

    return call


def helper(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that kernels call; LLVM inlines it."""
    return cast("Callable[P, R]", _compile(function, parallel=False))


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numba's types that writes the LLVM code of a call in kernels."""
    return function if numba is None else cast(Any, numba).extending.intrinsic(function)


def _compile(function: Callable[..., Any], *, parallel: bool) -> Callable[..., Any]:
    if numba is None:
        return function
    from saeserve.core.machine_code import KeptCode  # which needs numba

    try:
        made: Any = numba.njit(cache=True, parallel=parallel)(function)
    except RuntimeError:
        # Nowhere to keep the machine code (a read-only installation without a home directory).
        return numba.njit(parallel=parallel)(function)
    # By itself numba looks at a function's own file, and would keep code that was inlined from
    # another file as it was before.
    made._cache._cache_file = KeptCode.in_place_of(made._cache._cache_file, _SOURCES)
    return made


def _match_threads() -> None:
    """Run on as many threads as torch does: more would compete, fewer would wait."""
    if numba is None:
        return
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if torch.get_num_threads() != threads:
        # Starting its pool, numba sets OpenMP's number of threads, which torch shares.
        torch.set_num_threads(threads)
