"""Tokens: their text, which only their holder has, and the record by which it is known again."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from saeserve.errors import InvalidInput
from saeserve.platform.auth.caller import Caller
from saeserve.platform.auth.rules import Scope

TOKEN_FORMAT = 1
CLOCK_LEEWAY_S = 30.0
"""A token is taken this much longer than it lasts: clocks of machines differ."""
_TEXT = re.compile(r"sae_([0-9a-f]{16})_[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{16}")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


class Limits(BaseModel):
    """What a token may use; None means unlimited. Rates hold for each server process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls_per_second: float | None = Field(default=None, gt=0)
    bytes_per_second: float | None = Field(default=None, gt=0)
    """Limit on the bytes of request messages per second."""
    upload_bytes: int | None = Field(default=None, ge=0)
    """Limit on the sum of the owner's uploaded files that no data set has adopted yet."""


class TokenRecord(BaseModel):
    """What `auth/tokens/<id>.json` holds; times in seconds since the epoch.

    `sha256` is of the token's text. A slow hash would protect a text that can be guessed; this one
    has 256 random bits, and is compared at every call.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = TOKEN_FORMAT
    id: str
    sha256: str
    owner: str
    scopes: tuple[Scope, ...]
    created: float
    expires: float | None = None
    revoked: float | None = None
    note: str = ""
    limits: Limits = Limits()

    def is_of(self, text: str) -> bool:
        """Whether `text` is this token's, compared in constant time."""
        return hmac.compare_digest(self.sha256, _digest(text))

    def expired(self, now: float) -> bool:
        """Whether its time has passed, by more than clocks differ."""
        return self.expires is not None and now > self.expires + CLOCK_LEEWAY_S

    @property
    def caller(self) -> Caller:
        """Owner, rights and upload limit, as handlers check them."""
        return Caller(self.id, self.owner, frozenset(self.scopes), self.limits.upload_bytes)


def new_token(
    owner: str,
    scopes: Sequence[Scope],
    *,
    now: float,
    expires: float | None = None,
    note: str = "",
    limits: Limits | None = None,
) -> tuple[str, TokenRecord]:
    """A token's text, which nobody can find again, and its record. Raises InvalidInput."""
    token = secrets.token_hex(8)
    text = f"sae_{token}_{secrets.token_hex(32)}"
    record = TokenRecord(
        id=token,
        sha256=_digest(text),
        owner=checked_owner(owner),
        scopes=tuple(sorted(set(scopes))),
        created=now,
        expires=expires,
        note=note,
        limits=limits or Limits(),
    )
    return text, record


def id_in(text: str) -> str | None:
    """The id in a token's text; None for a text that is not a token."""
    match = _TEXT.fullmatch(text)
    return match[1] if match else None


def is_id(text: str) -> bool:
    """Whether `text` has the form of a token's id."""
    return _ID.fullmatch(text) is not None


def checked_id(token: str) -> str:
    """`token` when it has the form of an id; it becomes part of a path. Raises InvalidInput."""
    if not is_id(token):
        # Not shown: whoever errs here may have given the token itself.
        raise InvalidInput(
            "a token's id has 16 hexadecimal digits",
            code="BAD_TOKEN_ID",
            field="id",
            remedy="take it from: saeserve token ls",
        )
    return token


def checked_owner(owner: str) -> str:
    """`owner` when it can be the name of one. Raises InvalidInput."""
    if not _OWNER.fullmatch(owner):
        raise InvalidInput(
            f"{owner!r} cannot name an owner",
            code="BAD_OWNER",
            field="owner",
            remedy="use 1 to 64 letters, digits and . _ @ + -, beginning with a letter or digit",
        )
    return owner


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
