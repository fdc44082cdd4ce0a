"""What errors of the Redis client mean: away, refusing for now, or a fault of ours."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import cast

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from saeserve.errors import StartupError
from saeserve.platform.redis import connect, login_refused, shown, unavailable, unreachable

REFUSALS = [
    "NOREPLICAS Not enough good replicas to write.",
    "READONLY You can't write against a read only replica.",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "LOADING Valkey is loading the dataset in memory",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "BUSY Redis is busy running a script.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN Hash slot not served",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "NOPERM User default has no permissions to run the 'brpop' command",
    "NOAUTH Authentication required.",
    "EXECABORT Transaction discarded because of previous errors.",
    "ERR Error running script (call to f_1): @user_script:12: -READONLY You can't write against",
    "ERR max number of clients reached",
]
FAULTS = [
    "ERR unknown command 'FOO'",
    "ERR user_script:5: attempt to index a nil value script: 0a, on @user_script:5.",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOSCRIPT No matching script.",
    "something else",
]


def answered(line: str) -> Exception:
    """What redis-py raises for an error line of the server."""
    # redis-py leaves this one untyped.
    return cast("Callable[[str], Exception]", BaseParser.parse_error)(line)


@pytest.mark.parametrize("line", REFUSALS)
def test_a_refusal_of_the_server_is_an_outage(line: str) -> None:
    assert unreachable(answered(line))


def test_a_refusal_within_a_pipeline_is_an_outage() -> None:
    text = "Command # 1 (ZADD x) of pipeline caused error: NOREPLICAS Not enough good replicas"
    assert unreachable(exceptions.ResponseError(text))


@pytest.mark.parametrize("line", FAULTS)
def test_a_fault_of_ours_is_none(line: str) -> None:
    assert not unreachable(answered(line))


@pytest.mark.parametrize(
    "error", [exceptions.ConnectionError("x"), exceptions.TimeoutError("x"), OSError("x")]
)
def test_a_server_that_is_away_is_an_outage(error: Exception) -> None:
    assert unreachable(error)


@pytest.mark.parametrize(
    "line",
    [
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOAUTH Authentication required.",
    ],
)
def test_a_refused_login_has_its_own_words(line: str) -> None:
    error = answered(line)
    assert login_refused(error)
    assert isinstance(error, exceptions.RedisError)
    assert "SAESERVE_REDIS_PASSWORD_FILE" in unavailable(error).text()


def test_a_server_that_is_away_refuses_no_login() -> None:
    assert not login_refused(exceptions.ConnectionError("x"))
    assert not login_refused(answered("NOPERM this user has no permissions to run 'keys'"))


SECRET = "hunter2"
MALFORMED = [
    f"http://user:{SECRET}@host:6379/0",
    f"redis:/user:{SECRET}@host",
    f"user:{SECRET}@host:6379",
    f"redis://:{SECRET}@host:port/0",
    f"redis://:{SECRET}/more@host:6379/0",
    f"redis://user:{SECRET}@[::1/0",
    f"redis://:{SECRET}@host:99999999/0",
    f"redis://:{SECRET}@host/0?socket_timeout=soon",
    f"redis://:{SECRET}@host/0?no_such_option=1",
    f"redis://:x@host/0?socket_timeout={SECRET}",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_shows_nothing_of_its_password(url: str) -> None:
    with pytest.raises(StartupError, match="SAESERVE_REDIS_URL") as caught:
        connect(url)
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://user:hunter2@host:6379/0?password=hunter2", "redis://host:6379/0"),
        ("redis://:hunter2@host", "redis://host"),
        ("unix:///run/valkey.sock", "unix:///run/valkey.sock"),
    ],
)
def test_what_people_see_of_a_url(url: str, wanted: str) -> None:
    assert shown(url) == wanted
