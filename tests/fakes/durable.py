"""Something that happens just before the n-th durable operation of an attempt in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# The last argument that is a path says what changes.
_OPERATIONS = {"link": 2, "rename": 2, "replace": 2, "unlink": 1, "rmdir": 1, "mkdir": 1}


@dataclass
class Durable:
    """Counts operations below `root` and calls `act` once, before the operation number `at`.

    `act` may run a whole other attempt: its operations are not counted.
    """

    root: Path
    act: Callable[[], object] = lambda: None
    at: int = -1
    within: tuple[str, ...] = ("",)
    """Counts only operations on paths that hold one of these."""
    seen: list[str] = field(default_factory=list[str])
    busy: bool = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name, paths in _OPERATIONS.items():
            patch.setattr(os, name, self._wrapped(getattr(os, name), name, paths))

    def _wrapped(
        self, operation: Callable[..., object], name: str, paths: int
    ) -> Callable[..., object]:
        def call(*arguments: Any, **options: Any) -> object:  # noqa: ANN401 - passed on
            self._note(name, str(arguments[paths - 1]))
            return operation(*arguments, **options)

        return call

    def _note(self, name: str, path: str) -> None:
        if self.busy or not path.startswith(str(self.root)):
            return
        if not any(part in path for part in self.within):
            return
        self.seen.append(f"{name} {path}")
        if len(self.seen) - 1 == self.at:
            self.busy = True
            try:
                self.act()
            finally:
                self.busy = False
