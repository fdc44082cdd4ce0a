"""Tokens in a store, of every kind that a caller may come with."""

from __future__ import annotations

import time

from saeserve.platform.auth.rules import Scope
from saeserve.platform.auth.token_store import TokenStore
from saeserve.platform.auth.tokens import Limits, id_in, new_token
from saeserve.platform.store import ArtifactStore

DAY = 86_400.0
ALL = (Scope.SUBMIT, Scope.READ, Scope.ENCODE)


class Tokens:
    """Makes tokens of `store`."""

    def __init__(self, store: ArtifactStore) -> None:
        self.kept = TokenStore(store)

    def make(
        self,
        *scopes: Scope,
        owner: str = "alice",
        lasts: float = DAY,
        limits: Limits | None = None,
    ) -> str:
        """The text of a token with `scopes`, or with all but admin."""
        now = time.time()
        text, record = new_token(owner, scopes or ALL, now=now, expires=now + lasts, limits=limits)
        self.kept.add(record)
        return text

    def revoke(self, text: str) -> None:
        self.kept.revoke(id_in(text) or "", time.time())

    def bad(self) -> dict[str, str]:
        """Tokens that let nobody in, by the reason that the refusal has; all have every scope."""
        good = self.make(*Scope)
        revoked = self.make(*Scope)
        self.revoke(revoked)
        last = "0" if good[-1] != "0" else "1"
        return {
            "TOKEN_MISSING": "",
            "TOKEN_MALFORMED": "changeme",
            "TOKEN_UNKNOWN": f"sae_{'0' * 16}_{good[-64:]}",
            "TOKEN_UNKNOWN tampered": good[:-1] + last,
            "TOKEN_EXPIRED": self.make(*Scope, lasts=-60),
            "TOKEN_REVOKED": revoked,
        }
