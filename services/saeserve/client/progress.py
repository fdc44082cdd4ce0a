"""How far an upload or a download is, for whoever wants to show it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the file at work, and the bytes done and to do of all files together."""


def silent(_name: str, _done: int, _total: int) -> None:
    """The progress that nobody watches."""


def shifted(progress: Progress, name: str, before: int, total: int) -> Callable[[int], None]:
    """Takes the bytes done of one file; `before` are those of the files before it."""

    def tell(at: int) -> None:
        progress(name, before + at, total)

    return tell
