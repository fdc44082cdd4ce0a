from collections.abc import Callable

class _Runtime:
    interpret: bool

class _Build:
    impl: Callable[..., str] | None
    """Builds a C module in place of Triton: name, source, folder, libraries -> path."""

runtime: _Runtime
build: _Build
