"""Tokens: what is kept of them, who is let in, and what clocks and outages do."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from saeserve.errors import (
    InvalidInput,
    NotFound,
    PermissionDenied,
    StartupError,
    Unauthenticated,
    Unavailable,
)
from saeserve.platform.auth import verifier as verifying
from saeserve.platform.auth.caller import EVERYONE, STRANGER, Caller
from saeserve.platform.auth.guard import Guard
from saeserve.platform.auth.rules import CHANGE, OPEN, READ, Scope
from saeserve.platform.auth.token_store import TokenStore
from saeserve.platform.auth.tokens import CLOCK_LEEWAY_S, id_in, new_token
from saeserve.platform.auth.verifier import TokenVerifier
from saeserve.platform.settings import ServiceSettings
from saeserve.platform.store import ArtifactStore

T = TypeVar("T")


class Clock:
    """Both clocks of a verifier."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Site:
    """A store with tokens, and a verifier of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore(folder)
        self.tokens = TokenStore(self.store)
        self.clock = Clock()
        self.verifier = TokenVerifier(self.tokens, self.clock, self.clock)

    def make(self, *scopes: Scope, lasts: float | None = None, owner: str = "alice") -> str:
        expires = None if lasts is None else self.clock.now + lasts
        text, record = new_token(
            owner, scopes or (Scope.READ,), now=self.clock.now, expires=expires
        )
        self.tokens.add(record)
        return text

    def why_not(self, text: str) -> str:
        return asyncio.run(self.outcome(text))

    async def outcome(self, text: str) -> str:
        try:
            await self.verifier.record(text)
        except (Unauthenticated, Unavailable) as error:
            return error.code
        return ""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "store")


def test_the_text_of_a_token_is_nowhere_in_the_store(site: Site) -> None:
    text = site.make()
    kept = [path.read_text() for path in site.folder.rglob("*.json")]
    assert len(kept) == 1
    secret = text.rpartition("_")[2]
    assert secret not in kept[0]
    assert (id_in(text) or "") in kept[0]


def test_two_tokens_share_nothing(site: Site) -> None:
    first, second = site.make(), site.make()
    assert first.split("_")[1:] != second.split("_")[1:]
    assert [len(part) for part in first.split("_")] == [3, 16, 64]


def test_a_good_token_is_let_in(site: Site) -> None:
    assert site.why_not(site.make()) == ""


@pytest.mark.parametrize(
    "text", ["", "changeme", "sae_", "Bearer x", "sae_0123456789abcdef", "sae_../../x_" + "0" * 64]
)
def test_what_is_no_token_reads_no_file(
    text: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.tokens, "find", pytest.fail)
    assert site.why_not(text) == "TOKEN_MALFORMED"


def test_a_wrong_secret_is_told_like_an_unknown_token(site: Site) -> None:
    text = site.make()
    wrong = text[:-1] + ("0" if text[-1] != "0" else "1")
    unknown = f"sae_{'0' * 16}_{text[-64:]}"
    assert site.why_not(wrong) == site.why_not(unknown) == "TOKEN_UNKNOWN"
    site.tokens.revoke(id_in(text) or "", 1.0)
    # Who has no secret does not learn that the token was revoked.
    assert site.why_not(wrong) == "TOKEN_UNKNOWN"


def test_expiry_allows_for_clocks_that_differ_a_little(site: Site) -> None:
    text = site.make(lasts=60)
    for later, reason in (
        (59, ""),
        (60 + CLOCK_LEEWAY_S - 1, ""),
        (61 + CLOCK_LEEWAY_S, "TOKEN_EXPIRED"),
    ):
        site.clock.now = 1000.0 + later
        assert site.why_not(text) == reason


def test_a_token_made_by_a_clock_that_runs_ahead_is_good(site: Site) -> None:
    text = site.make(lasts=3600)
    site.clock.now -= 600
    assert site.why_not(text) == ""


def test_a_revoked_token_is_refused_once_it_is_read_again(site: Site) -> None:
    text = site.make()

    async def scenario() -> list[str]:
        found = [await site.outcome(text)]
        site.tokens.revoke(id_in(text) or "", site.clock.now)
        site.clock.now += verifying.FRESH_S - 0.1
        found.append(await site.outcome(text))
        site.clock.now += 0.2
        # The record in hand is used once more, and read again meanwhile.
        await site.outcome(text)
        while (reason := await site.outcome(text)) == "":
            await asyncio.sleep(0.01)
        return [*found, reason]

    assert asyncio.run(scenario()) == ["", "", "TOKEN_REVOKED"]


def test_a_token_that_was_not_used_for_long_is_read_first(site: Site) -> None:
    text = site.make()

    async def scenario() -> str:
        assert await site.outcome(text) == ""
        site.tokens.revoke(id_in(text) or "", site.clock.now)
        site.clock.now += verifying.STALE_S
        return await site.outcome(text)

    assert asyncio.run(scenario()) == "TOKEN_REVOKED"


def test_while_the_store_is_away_known_tokens_count_for_a_while(site: Site) -> None:
    known, unknown = site.make(), site.make()

    async def scenario() -> list[str]:
        assert await site.outcome(known) == ""
        site.store.guard(_away)
        for path in site.folder.rglob("*.json"):
            path.rename(path.with_suffix(".away"))
        found: list[str] = []
        for later in (verifying.STALE_S, verifying.OUTAGE_S):
            site.clock.now = 1000.0 + later
            found.append(await site.outcome(known))
        return [*found, await site.outcome(unknown)]

    assert asyncio.run(scenario()) == ["", "STORE_UNAVAILABLE", "STORE_UNAVAILABLE"]


def _away() -> None:
    raise Unavailable("the store is not mounted", code="STORE_UNAVAILABLE")


def test_a_damaged_record_lets_nobody_in(site: Site) -> None:
    text = site.make()
    [path] = site.folder.rglob("*.json")
    path.write_text("{}")
    assert site.why_not(text) == "TOKEN_RECORD_DAMAGED"


def test_a_stray_file_beside_the_records_is_no_token(site: Site) -> None:
    text = site.make()
    (site.folder / "auth/tokens/README.json").write_text("keep out")
    assert site.tokens.ids() == [id_in(text)]


def test_records_are_for_the_services_user_alone(site: Site) -> None:
    before = os.umask(0)
    try:
        ServiceSettings().protect_files()
        site.make()
    finally:
        os.umask(before)
    [path] = site.folder.rglob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("owner", ["", "../x", "a b", "x" * 65, "-x", "ä"])
def test_owners_have_plain_names(owner: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        new_token(owner, [Scope.READ], now=0.0)
    assert caught.value.field == "owner"


def test_only_what_is_there_can_be_revoked(site: Site) -> None:
    text = site.make()
    with pytest.raises(NotFound):
        site.tokens.revoke("0" * 16, 1.0)
    with pytest.raises(InvalidInput) as caught:
        site.tokens.revoke(text, 1.0)
    assert text not in caught.value.text()
    first = site.tokens.revoke(id_in(text) or "", 1.0)
    assert site.tokens.revoke(id_in(text) or "", 2.0) == first


def admitted(site: Site, method: str, *headers: tuple[str, str | bytes]) -> Caller:
    guard = Guard({"/s/Read": READ, "/s/Change": CHANGE, "/s/Open": OPEN}, site.verifier)
    return _run(lambda: guard.admit(method, headers)).caller


def _run(act: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        return await act()

    return asyncio.run(whole())


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_the_scheme_may_be_written_as_one_likes(scheme: str, site: Site) -> None:
    caller = admitted(site, "/s/Read", ("authorization", scheme + site.make()))
    assert (caller.owner, caller.scopes) == ("alice", {Scope.READ})


def test_another_scheme_is_no_token(site: Site) -> None:
    for headers in ([("authorization", "Basic x")], [("token", site.make())], []):
        with pytest.raises(Unauthenticated) as caught:
            admitted(site, "/s/Read", *headers)
        assert caught.value.code == "TOKEN_MISSING"


def test_scopes_decide_and_admin_has_all(site: Site) -> None:
    read, admin = site.make(Scope.READ), site.make(Scope.ADMIN)
    with pytest.raises(PermissionDenied, match="lacks the scope submit; it has read"):
        admitted(site, "/s/Change", ("authorization", f"Bearer {read}"))
    assert admitted(site, "/s/Change", ("authorization", f"Bearer {admin}")).admin
    assert admitted(site, "/s/Open") == STRANGER


def test_a_method_without_a_rule_is_answered_to_nobody(site: Site) -> None:
    admin = site.make(*Scope)
    with pytest.raises(PermissionDenied) as caught:
        admitted(site, "/s/New", ("authorization", f"Bearer {admin}"))
    assert caught.value.code == "SCOPE_UNDECLARED"


def test_without_tokens_everyone_is_an_administrator(site: Site) -> None:
    assert _run(lambda: Guard({}, None).admit("/s/Any", ())).caller == EVERYONE


def test_what_has_no_owner_is_the_administrators(tmp_path: Path) -> None:
    alice = Caller("t", "alice", frozenset({Scope.SUBMIT}))
    assert [alice.owns(owner) for owner in ("alice", "bob", "")] == [True, False, False]
    assert not STRANGER.owns("")
    assert EVERYONE.owns("bob")


@pytest.mark.parametrize(
    ("address", "changes", "asks"),
    [
        ("127.0.0.1:7070", {}, False),
        ("unix:/run/s", {}, False),
        ("0.0.0.0:7070", {}, True),
        ("0.0.0.0:7070", {"insecure": True}, True),
        ("127.0.0.1:7070", {"auth": "tokens"}, True),
        ("127.0.0.1:7070", {"auth": "off"}, False),
        ("0.0.0.0:7070", {"auth": "off", "insecure": True}, False),
        ("0.0.0.0:7070", {"auth": "off", "tls_client_ca": "ca.pem"}, False),
    ],
)
def test_who_can_be_reached_asks_for_tokens(
    address: str, changes: dict[str, object], asks: bool
) -> None:
    assert ServiceSettings.model_validate(changes).asks_tokens(address) is asks


def test_a_server_that_everybody_could_call_is_refused() -> None:
    with pytest.raises(StartupError, match="SAESERVE_AUTH is off"):
        ServiceSettings(auth="off").asks_tokens("0.0.0.0:7070")
