"""Who owns a name: the first to make a data set or a model of it, and nobody else until it is gone.

`owner.json` lies next to what it is about. What was made without an owner is the administrators'.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from saeserve.platform.auth.caller import Caller
from saeserve.platform.store import ArtifactStore
from saeserve.registry.refusals import not_owner
from saeserve.registry.stored import read_stored

Kind = Literal["datasets", "models"]
_WORDS: dict[Kind, str] = {"datasets": "data set", "models": "model"}


class Owner(BaseModel):
    """What owner.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    owner: str


class Owners:
    """Looks up and records owners; names are checked by whoever calls."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def check(self, kind: Kind, name: str, caller: Caller, field: str) -> None:
        """Raise PermissionDenied unless `caller` may change what has the name, or nothing has."""
        if caller.admin:
            return
        owner = self.owner(kind, name)
        if owner is None and not self._store.exists(f"{kind}/{name}"):
            return
        if not caller.owns(owner or ""):
            raise not_owner(
                f"{_WORDS[kind]} {name} belongs to another owner",
                field=field,
                remedy="use another name, or a token of its owner or with the scope admin",
            )

    def claim(self, kind: Kind, name: str, owner: str, caller: Caller, field: str) -> None:
        """Check, and make a name that nothing has `owner`'s; without an owner, nobody's."""
        self.check(kind, name, caller, field)
        if not owner or self._store.exists(f"{kind}/{name}"):
            return
        self._store.put_if_absent(_key(kind, name), Owner(owner=owner).model_dump_json().encode())
        # Another may have been first.
        self.check(kind, name, caller, field)

    def owner(self, kind: Kind, name: str) -> str | None:
        """Who owns the name; None when nobody does. Raises DamagedError."""
        found = read_stored(self._store, _key(kind, name), Owner)
        return None if found is None else found.owner


def _key(kind: Kind, name: str) -> str:
    return f"{kind}/{name}/owner.json"
