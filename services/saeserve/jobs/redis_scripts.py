"""The Lua scripts, one a move, and the mapping of Redis's faults to IndexUnavailable."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from importlib.resources import files
from typing import cast

import redis
from redis.exceptions import RedisError, ResponseError

from saeserve.jobs.errors import IndexUnavailable
from saeserve.platform.redis import unreachable

Reply = bytes | str | int

PREFIX = "saeserve:"
"""Of every key; `lua/common.lua` says the same."""

_NAMES = (
    "acquire",
    "announce",
    "append",
    "beat",
    "expire",
    "finish",
    "lead",
    "leases",
    "machines",
    "put",
    "queue",
    "read",
    "release",
    "remove",
    "request_cancel",
    "runnable",
    "shrink",
    "start",
    "tally",
    "tidy",
    "told",
    "unblock",
)


class Scripts:
    """Runs the scripts by name; each is loaded again when the server forgot it."""

    def __init__(self, client: redis.Redis) -> None:
        folder = files("saeserve.jobs") / "lua"
        common = (folder / "common.lua").read_text()
        self._scripts = {
            name: client.register_script(common + (folder / f"{name}.lua").read_text())
            for name in _NAMES
        }

    def flag(self, name: str, *arguments: str | int) -> bool:
        """Run a script that answers 0 or 1. Raises IndexUnavailable, as all of these do."""
        return cast("int", self._run(name, arguments)) == 1

    def number(self, name: str, *arguments: str | int) -> int:
        """Run a script that answers a number."""
        return cast("int", self._run(name, arguments))

    def word(self, name: str, *arguments: str | int) -> str:
        """Run a script that answers a word."""
        return text(cast("Reply", self._run(name, arguments)))

    def words(self, name: str, *arguments: str | int) -> list[str]:
        """Run a script that answers a flat list."""
        return [text(part) for part in cast("list[Reply]", self._run(name, arguments))]

    def lists(self, name: str, *arguments: str | int) -> list[list[str]]:
        """Run a script that answers a list of flat lists."""
        answer = cast("list[list[Reply]]", self._run(name, arguments))
        return [[text(part) for part in flat] for flat in answer]

    def _run(self, name: str, arguments: tuple[str | int, ...]) -> object:
        with reaching("index"):
            return self._scripts[name](args=arguments)


@contextlib.contextmanager
def reaching(what: str) -> Generator[None]:
    """Turn the faults of a server that is away or refuses writes into IndexUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:
        if not unreachable(error):
            raise
        why = "refuses commands now" if isinstance(error, ResponseError) else "is out of reach"
        raise IndexUnavailable(f"the {what} {why}: {error}") from error


def text(value: Reply) -> str:
    """A reply as text, whether or not the client decodes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def table(flat: list[str]) -> dict[str, str]:
    """A flat list of names and values as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
