"""The Lua scripts, one a move, and the mapping of Redis's faults to IndexUnavailable."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from importlib.resources import files
from typing import cast

import redis
from redis.exceptions import RedisError, ResponseError, TimeoutError

from saeserve.jobs.errors import IndexUnavailable
from saeserve.platform.redis import LOGIN_REMEDY, login_refused, unreachable

Reply = bytes | str | int

PREFIX = "saeserve:"
"""Prefix of every key, equal to the one in `lua/common.lua`."""

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


class Reach:
    """Whether the server answers, as far as the latest commands have shown.

    A server that hangs lets each command wait for the client's whole time-out. What needs several
    commands would wait once for each, so after one that got no answer the others fail at once.
    """

    def __init__(self, pause_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`pause_s`: for how long they fail without being sent; 0: each is sent."""
        self._pause_s = pause_s
        self._clock = clock
        self._silent_until = float("-inf")

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        """Around commands. Raises IndexUnavailable in place of the faults of a server that is
        away, refuses writes or lately did not answer."""
        if self._clock() < self._silent_until:
            raise IndexUnavailable("the index is out of reach: it did not answer a moment ago")
        with reaching("index"):
            try:
                yield
            except TimeoutError:
                self._silent_until = self._clock() + self._pause_s
                raise


class Scripts:
    """Runs the scripts by name; each is loaded again when the server forgot it."""

    def __init__(self, client: redis.Redis, reach: Reach) -> None:
        folder = files("saeserve.jobs") / "lua"
        common = (folder / "common.lua").read_text()
        self._scripts = {
            name: client.register_script(common + (folder / f"{name}.lua").read_text())
            for name in _NAMES
        }
        self._reach = reach

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
        with self._reach():
            return self._scripts[name](args=arguments)


@contextlib.contextmanager
def reaching(what: str) -> Generator[None]:
    """Turn the faults of a server that is away or refuses writes into IndexUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:
        if not unreachable(error):
            raise
        if login_refused(error):
            raise IndexUnavailable(
                f"the {what} refuses the user or the password: {error}", LOGIN_REMEDY
            ) from error
        why = "refuses commands now" if isinstance(error, ResponseError) else "is out of reach"
        raise IndexUnavailable(f"the {what} {why}: {error}") from error


def text(value: Reply) -> str:
    """A reply as text, whether or not the client decodes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def table(flat: list[str]) -> dict[str, str]:
    """A flat list of names and values as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
