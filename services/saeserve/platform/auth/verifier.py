"""Whether a token is good now: known, its own, neither revoked nor expired."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from saeserve.errors import ServiceError, Unauthenticated, Unavailable
from saeserve.platform.auth.token_store import TokenStore
from saeserve.platform.auth.tokens import TokenRecord, id_in
from saeserve.platform.store_errors import store_unavailable

FRESH_S = 2.0
"""A record that was read this long ago is used, and read again meanwhile."""
STALE_S = 10.0
"""An older one is read first."""
OUTAGE_S = 300.0
"""While the store cannot be read, what was read this long ago still counts."""

log = logging.getLogger(__name__)


@dataclass
class _Known:
    record: TokenRecord
    read: float
    refreshing: asyncio.Task[None] | None = None


class TokenVerifier:
    """Reads records from the store and remembers them for seconds. For use in one event loop."""

    def __init__(
        self,
        tokens: TokenStore,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._clock = clock
        self._monotonic = monotonic
        self._known: dict[str, _Known] = {}

    async def record(self, text: str) -> TokenRecord:
        """The record of the token `text`.

        Raises Unauthenticated, and Unavailable while the store cannot be read. A wrong secret and
        an unknown id get the same error; only the holder of the secret learns what became of it.
        """
        token = id_in(text)
        if token is None:
            raise _refused("the text given is not a token", reason="TOKEN_MALFORMED")
        found = await self._find(token)
        if found is None or not found.is_of(text):
            raise _refused("the token is not known", reason="TOKEN_UNKNOWN")
        if found.revoked is not None:
            raise _refused(f"token {token} was revoked", reason="TOKEN_REVOKED")
        if found.expired(self._clock()):
            raise _refused(f"token {token} has expired", reason="TOKEN_EXPIRED")
        return found

    async def _find(self, token: str) -> TokenRecord | None:
        known = self._known.get(token)
        age = STALE_S if known is None else self._monotonic() - known.read
        if known is None or age >= STALE_S:
            return await self._read(token)
        if age >= FRESH_S and known.refreshing is None:
            known.refreshing = asyncio.create_task(self._refresh(token))
        return known.record

    async def _refresh(self, token: str) -> None:
        try:
            await self._read(token)
        except ServiceError as error:
            log.warning("token %s is not looked up again: %s", token, error.text())
        finally:
            if token in self._known:
                self._known[token].refreshing = None

    async def _read(self, token: str) -> TokenRecord | None:
        begun = self._monotonic()
        try:
            found = await asyncio.to_thread(self._tokens.find, token)
        except (OSError, Unavailable) as error:
            return self._remembered(token, error)
        if found is None:
            self._known.pop(token, None)
        else:
            self._known[token] = _Known(found, begun)
        return found

    def _remembered(self, token: str, error: Exception) -> TokenRecord:
        """What is known of the token while the store cannot be read. Raises Unavailable."""
        known = self._known.get(token)
        if known is not None and self._monotonic() - known.read < OUTAGE_S:
            return known.record
        if isinstance(error, Unavailable):
            raise error
        raise store_unavailable(
            "tokens cannot be looked up",
            remedy="try again; the operator sees to the artifact store",
        ) from error


def _refused(message: str, reason: str) -> Unauthenticated:
    return Unauthenticated(
        message,
        code=reason,
        remedy="set SAESERVE_TOKEN or SAESERVE_TOKEN_FILE to a token that the operator made with: "
        "saeserve token create",
    )
