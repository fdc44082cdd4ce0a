"""Lets a call in by its token, before its request is read, and watches long calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from saeserve.errors import PermissionDenied, Unauthenticated, Unavailable
from saeserve.platform.auth.caller import EVERYONE, STRANGER, Caller
from saeserve.platform.auth.limiter import Limiter, Usage
from saeserve.platform.auth.rules import Rule
from saeserve.platform.auth.verifier import TokenVerifier

RECHECK_S = 2.0
"""How often the token of an open stream is looked at."""
_SCHEME = "bearer "
_KEY = "authorization"

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Admitted:
    """A call that was let in; `text` is its token, "" for none, and `usage` what that has used."""

    caller: Caller
    text: str = ""
    usage: Usage | None = None


class Guard:
    """Knows the rule of every method; without a verifier everyone may call all of them."""

    def __init__(self, rules: Mapping[str, Rule], verifier: TokenVerifier | None) -> None:
        """`rules` by full method name, `/service/method`."""
        self._rules = dict(rules)
        self._verifier = verifier
        self._limiter = Limiter()

    async def admit(self, method: str, metadata: Metadata) -> Admitted:
        """Who calls. Raises Unauthenticated, PermissionDenied, Overloaded, Unavailable."""
        if self._verifier is None:
            return Admitted(EVERYONE)
        rule = self._rules.get(method)
        if rule is None:
            raise _undeclared(method)
        if rule.open:
            return Admitted(STRANGER)
        text = _token_in(metadata)
        record = await self._verifier.record(text)
        caller, usage = record.caller, self._limiter.of(record)
        if not caller.may(rule):
            raise _out_of_scope(caller, rule)
        if usage is not None:
            usage.call()
        return Admitted(caller, text, usage)

    @asynccontextmanager
    async def watching(self, admitted: Admitted) -> AsyncGenerator[None]:
        """End what runs in the block when its token is revoked or expires. Raises
        Unauthenticated."""
        if self._verifier is None or not admitted.text:
            yield
            return
        refusals: list[Unauthenticated] = []
        try:
            async with asyncio.timeout(None) as limit:
                watch = asyncio.create_task(self._watch(admitted.text, limit, refusals))
                try:
                    yield
                finally:
                    watch.cancel()
        except TimeoutError:
            if refusals:
                raise refusals[0] from None
            raise

    async def _watch(
        self, text: str, limit: asyncio.Timeout, refusals: list[Unauthenticated]
    ) -> None:
        assert self._verifier is not None
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                await self._verifier.record(text)
            except Unauthenticated as error:
                refusals.append(error)
                limit.reschedule(asyncio.get_running_loop().time())
                return
            except Unavailable:
                continue


def _token_in(metadata: Metadata) -> str:
    for key, value in metadata:
        if key == _KEY and isinstance(value, str) and value.lower().startswith(_SCHEME):
            return value[len(_SCHEME) :].strip()
    raise Unauthenticated(
        "this server answers calls with a token only",
        code="TOKEN_MISSING",
        remedy="set SAESERVE_TOKEN or SAESERVE_TOKEN_FILE, or send the metadata authorization: "
        "Bearer <token>; the operator makes tokens with: saeserve token create",
    )


def _out_of_scope(caller: Caller, rule: Rule) -> PermissionDenied:
    wanted = " or ".join(sorted(rule.scopes))
    return PermissionDenied(
        f"token {caller.token} lacks the scope {wanted}; it has {', '.join(sorted(caller.scopes))}",
        code="SCOPE_MISSING",
        remedy="ask the operator for a token with that scope",
    )


def _undeclared(method: str) -> PermissionDenied:
    return PermissionDenied(
        f"no scope lets anybody call {method}",
        code="SCOPE_UNDECLARED",
        remedy="this is a fault of the server: report it",
    )
