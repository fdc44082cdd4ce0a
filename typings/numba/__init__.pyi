# What we use of numba, which has no complete types of its own.
from collections.abc import Callable
from typing import Any

def njit(**options: Any) -> Callable[[Any], Any]: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int, /) -> None: ...

prange = range

class _Config:
    NUMBA_NUM_THREADS: int

config: _Config
