# What we use of Triton, whose own types do not know that kernels are compiled.
from collections.abc import Callable
from typing import Any, overload

from triton import knobs as knobs
from triton import language as language

__version__: str
__file__: str

class Kernel:
    """A compiled function: `kernel[grid](...)` launches it, other kernels call it."""

    __name__: str
    arg_names: list[str]
    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

@overload
def jit(function: Callable[..., Any]) -> Kernel: ...
@overload
def jit(*, do_not_specialize: list[str]) -> Callable[[Callable[..., Any]], Kernel]: ...
def cdiv(x: int, y: int) -> int: ...
def next_power_of_2(n: int) -> int: ...
def compile(src: Any, target: Any = None, options: dict[str, Any] | None = None) -> Any: ...
