"""The one way to reach Valkey or Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from saeserve.platform.errors import StartupError, Unavailable

SOCKET_TIMEOUT_S = 5.0
"""A blocking command (XREAD BLOCK, BRPOP) must wait for less than this."""


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


def unavailable(error: RedisError) -> Unavailable:
    """What a caller is told when Redis failed."""
    return Unavailable(
        f"the job index (Redis) is out of reach: {type(error).__name__}",
        reason="REDIS_UNAVAILABLE",
        remedy="try again; the operator starts the broker or corrects SAESERVE_REDIS_URL",
    )
