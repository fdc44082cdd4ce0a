"""The one way to reach Valkey or Redis."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    ConnectionError,
    InvalidResponse,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from saeserve.platform.errors import StartupError, Unavailable

SOCKET_TIMEOUT_S = 5.0
"""A blocking command (XREAD BLOCK, BRPOP) must wait for less than this."""

_CODE = re.compile(r"^-?([A-Z]{2,})\b")
# Older servers put a script's error inside one of their own: "ERR Error running script ... -OOM".
_CODE_WITHIN = re.compile(r"(?:\s-|caused error: )([A-Z]{2,})\b")
_FAULTS_OF_THE_CALLER = frozenset({"ERR", "WRONGTYPE", "NOSCRIPT"})


def connect(url: str) -> Redis:
    """A client of the server at `url` (redis://, rediss://, unix://); answers are str.

    Connects at the first command. Nothing is sent twice: redis-py's own retry would repeat
    commands that are not idempotent. Raises StartupError for a URL of another form.
    """
    try:
        # redis-py leaves its keyword arguments untyped.
        make = cast("Callable[..., Redis]", Redis.from_url)
        return make(
            url,
            decode_responses=True,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=2.0,
            health_check_interval=25,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise StartupError(
            f"SAESERVE_REDIS_URL {url!r} is no Redis URL: {error}",
            reason="BAD_SETTING",
            remedy="use redis://host:port/0 or unix:///path/to/socket",
        ) from error


def check(client: Redis) -> None:
    """Raise Unavailable unless the server answers."""
    try:
        cast(Any, client).ping()
    except RedisError as error:
        raise unavailable(error) from error


def answers(url: str) -> bool:
    """Whether the server at `url` answers PING."""
    with connect(url) as client, contextlib.suppress(Unavailable):
        check(client)
        return True
    return False


def unreachable(error: BaseException) -> bool:
    """Whether `error` says that the server is away, or that it refuses commands in its present
    state (READONLY, NOREPLICAS, MISCONF, OOM, LOADING, UNBLOCKED, ...).

    Waiting helps against both. What remains is a fault of the caller, such as a wrong command.
    """
    if isinstance(error, ResponseError):
        return _refused(error)
    return isinstance(error, ConnectionError | TimeoutError | InvalidResponse | OSError)


def _refused(error: ResponseError) -> bool:
    text = str(error)
    # redis-py cuts the code off the text of those that have a class of their own.
    stated = getattr(error, "status_code", None)
    codes = {str(stated)} if stated else set(_CODE.findall(text))
    return bool((codes | set(_CODE_WITHIN.findall(text))) - _FAULTS_OF_THE_CALLER)


def unavailable(error: RedisError) -> Unavailable:
    """What a caller is told when Redis failed."""
    return Unavailable(
        f"the job index (Redis) is out of reach: {type(error).__name__}",
        reason="REDIS_UNAVAILABLE",
        remedy="try again; the operator starts the broker or corrects SAESERVE_REDIS_URL",
    )
