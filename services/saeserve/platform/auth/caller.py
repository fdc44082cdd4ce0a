"""The caller of the call that is being answered."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from saeserve.platform.auth.rules import Rule, Scope


@dataclass(frozen=True)
class Caller:
    """Whose token a call came with; `token` is its id, "" where the server asks for none."""

    token: str
    owner: str
    scopes: frozenset[Scope]
    upload_bytes: int | None = None
    """Limit on the sum of the owner's uploads; None means unlimited."""

    @property
    def admin(self) -> bool:
        """Whether it may see and change what belongs to others."""
        return Scope.ADMIN in self.scopes

    def may(self, rule: Rule) -> bool:
        """Whether its scopes let it call a method of this rule."""
        return rule.open or self.admin or not self.scopes.isdisjoint(rule.scopes)

    def owns(self, owner: str) -> bool:
        """Whether it may see and change what belongs to `owner`; what has none is the admins'."""
        return self.admin or (owner == self.owner and owner != "")


EVERYONE = Caller("", "", frozenset({Scope.ADMIN}))
"""Who calls a server that asks for no tokens."""

STRANGER = Caller("", "", frozenset())
"""Who calls an open method of a server that asks for tokens."""

_current: ContextVar[Caller] = ContextVar("caller")


def set_caller(caller: Caller) -> None:
    """Say who calls; for the interceptor, in the task of the call."""
    _current.set(caller)


def current_caller() -> Caller:
    """Who calls, in the task of a call. Raises LookupError elsewhere, such as in threads."""
    return _current.get()
