"""The records of tokens, as files of the artifact store: every service reads them there."""

from __future__ import annotations

from pydantic import ValidationError

from saeserve.errors import NotFound, Unavailable
from saeserve.platform.auth.tokens import TokenRecord, checked_id, is_id
from saeserve.platform.store import ArtifactStore

FOLDER = "auth/tokens"


class TokenStore:
    """Adds, finds and revokes tokens."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def add(self, record: TokenRecord) -> None:
        """Keep the record of a new token."""
        self._store.put_if_absent(_key(record.id), _bytes(record))

    def find(self, token: str) -> TokenRecord | None:
        """The record; None when there is none. Raises Unavailable for one that cannot be read."""
        data = self._store.read(_key(checked_id(token)))
        if data is None:
            return None
        try:
            return TokenRecord.model_validate_json(data)
        except ValidationError as error:
            raise Unavailable(
                f"the record of token {token} cannot be read",
                code="TOKEN_RECORD_DAMAGED",
                remedy="the operator revokes the token and makes a new one",
            ) from error

    def ids(self) -> list[str]:
        """Ids of all tokens, sorted; files that are not valid records are skipped."""
        names = (name.removesuffix(".json") for name in self._store.names(FOLDER))
        return [name for name in names if is_id(name)]

    def revoke(self, token: str, now: float) -> TokenRecord:
        """Make a token worth nothing, for good. Raises NotFound."""
        found = self.find(token)
        if found is None:
            raise NotFound(
                f"there is no token {token}",
                code="TOKEN_NOT_FOUND",
                field="id",
                remedy="take the id from: saeserve token ls",
            )
        revoked = found.model_copy(update={"revoked": found.revoked or now})
        self._store.replace(_key(token), _bytes(revoked))
        return revoked


def _key(token: str) -> str:
    return f"{FOLDER}/{token}.json"


def _bytes(record: TokenRecord) -> bytes:
    return record.model_dump_json(indent=1).encode()
