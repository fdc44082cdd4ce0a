"""Rates of tokens: how much at once, how much in the long run, and how long to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.errors import Overloaded
from saeserve.platform.auth.limiter import BURST_S, Bucket, Limiter, Usage
from saeserve.platform.auth.rules import Scope
from saeserve.platform.auth.tokens import Limits, TokenRecord, new_token
from saeserve.platform.messages import MessageReader
from saeserve.platform.requests import Requests


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(**limits: float) -> TokenRecord:
    made = Limits.model_validate(limits)
    return new_token("alice", [Scope.READ], now=0.0, limits=made)[1]


def test_calls_beyond_the_rate_are_refused_with_the_time_to_wait() -> None:
    clock = Clock()
    usage = Usage(Limits(calls_per_second=5), clock)
    for _ in range(int(5 * BURST_S)):
        usage.call()
    with pytest.raises(Overloaded) as caught:
        usage.call()
    assert caught.value.code == "RATE_LIMITED"
    clock.now += caught.value.retry_after_s
    usage.call()


@given(
    rate=st.floats(0.5, 100),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_pattern_of_calls_gets_more_than_the_rate_and_one_burst(
    rate: float, pauses: list[float]
) -> None:
    bucket, now, let_in = Bucket(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        if not bucket.debt_s(now):
            bucket.take(1.0)
            let_in += 1
    assert let_in <= rate * now + max(1.0, rate * BURST_S) + 1


def test_a_large_request_is_taken_and_paid_for_afterwards() -> None:
    clock = Clock()
    usage = Usage(Limits(bytes_per_second=100), clock)
    usage.call()
    assert usage.charge(1000) == pytest.approx(8.0, abs=0.01)
    with pytest.raises(Overloaded, match="used up its bytes") as caught:
        usage.call()
    assert caught.value.retry_after_s == pytest.approx(8.0, abs=0.01)


def test_tokens_have_limits_of_their_own_and_new_ones_at_once() -> None:
    limiter, clock = Limiter(), Clock()
    assert limiter.of(record()) is None
    first = record(calls_per_second=1)
    assert limiter.of(first) is limiter.of(first)
    assert limiter.of(first) is not limiter.of(record(calls_per_second=1))
    more = first.model_copy(update={"limits": Limits(calls_per_second=2)})
    assert limiter.of(more) is not limiter.of(first)
    assert clock.now == 0.0


def test_a_stream_is_slowed_down_rather_than_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr("saeserve.platform.requests.asyncio.sleep", sleep)
    usage = Usage(Limits(bytes_per_second=100), clock)

    async def messages() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(100)

    async def whole() -> int:
        requests = Requests(MessageReader({}), "/s/m", None, usage)
        return len([each async for each in requests.each(messages())])

    assert asyncio.run(whole()) == 20
    assert clock.now == pytest.approx(18.0, abs=0.1)
