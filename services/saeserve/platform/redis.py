"""The one way to reach Valkey or Redis."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from saeserve.errors import Unavailable
from saeserve.platform.startup_errors import bad_setting

SOCKET_TIMEOUT_S = 5.0
"""A blocking command (XREAD BLOCK, BRPOP) must wait for less than this."""

LOGIN_REMEDY = (
    "the operator corrects SAESERVE_REDIS_PASSWORD_FILE, or the user and password in "
    "SAESERVE_REDIS_URL"
)

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
        client = make(
            url,
            decode_responses=True,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=2.0,
            health_check_interval=25,
            retry=Retry(NoBackoff(), 0),
        )
        # Options of the URL that no connection has would be found at the first command only.
        cast(Any, client).connection_pool.make_connection()
    except (ValueError, TypeError, AttributeError):
        # Neither the URL nor the parser's words, which quote parts of it: it may hold a password.
        raise bad_setting(
            "SAESERVE_REDIS_URL is not the URL of a Redis server; its value is not shown, because "
            "it may hold a password",
            remedy="use redis://host:port/0, rediss://user:password@host:port/0 (with special "
            "characters of the password percent-encoded) or unix:///path/to/socket",
        ) from None
    return client


def shown(url: str) -> str:
    """`url` without user, password and options, for people to read."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}"


def check(client: Redis) -> None:
    """Raise Unavailable unless the server answers."""
    try:
        cast(Any, client).ping()
    except RedisError as error:
        raise unavailable(error) from error


def info(client: Redis) -> dict[str, object]:
    """What the server says of its memory and persistence; {} where this user may not ask.
    Raises Unavailable when it does not answer."""
    found: dict[str, object] = {}
    try:
        for section in ("memory", "persistence"):
            found |= cast(Any, client).info(section)
    except NoPermissionError:
        return {}
    except RedisError as error:
        raise unavailable(error) from error
    return found


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


def login_refused(error: BaseException) -> bool:
    """Whether the server lets this user with this password do nothing (WRONGPASS, NOAUTH)."""
    return isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError)


def _refused(error: ResponseError) -> bool:
    text = str(error)
    # redis-py cuts the code off the text of those that have a class of their own.
    stated = getattr(error, "status_code", None)
    codes = {str(stated)} if stated else set(_CODE.findall(text))
    return bool((codes | set(_CODE_WITHIN.findall(text))) - _FAULTS_OF_THE_CALLER)


def unavailable(error: RedisError) -> Unavailable:
    """Convert a failure of Redis to the error that a caller gets."""
    if login_refused(error):
        return _redis_unavailable("refuses the user or the password", LOGIN_REMEDY)
    return _redis_unavailable(
        f"is out of reach: {type(error).__name__}",
        "try again; the operator starts the broker or corrects SAESERVE_REDIS_URL",
    )


def _redis_unavailable(what: str, remedy: str) -> Unavailable:
    message = f"the job index (Redis) {what}"
    return Unavailable(message, code="REDIS_UNAVAILABLE", remedy=remedy)
