"""Signing in to the explorer of a deployment that asks for tokens: scopes and owners are gRPC's."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError

import pytest
from tests.fakes.access import Tokens
from tests.fakes.browsing import Browser
from tests.fakes.certificates import Authority
from tests.fakes.control_server import Control, train_spec
from tests.fakes.explorer_server import explorer, publish
from tests.fakes.valkey import Valkey

from saeserve.client import Access, Client
from saeserve.explorer.server import Running
from saeserve.platform.auth.rules import Scope

PATH = "/jobs"


@pytest.fixture(scope="module")
def control(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    service = Control(tmp_path_factory.mktemp("c"), valkey, auth="tokens")
    service.start()
    publish(service, service.folder)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def shown(control: Control) -> Iterator[Running]:
    assert control.server is not None
    with explorer(control.server.bound) as parts:
        yield parts


@pytest.fixture(scope="module")
def tokens(control: Control) -> Tokens:
    return Tokens(control.store)


@pytest.fixture(scope="module")
def job(control: Control, tokens: Tokens) -> str:
    """A job of alice's."""
    assert control.server is not None
    with Client(control.server.bound, access=Access(token=tokens.make())) as alice:
        return alice.jobs.submit(train_spec(model="alices")).id


def signed_in(url: str, token: str) -> Browser:
    browser = Browser(url)
    browser.send_form("/sign-in", "/sign-in", token=token, to=PATH)
    return browser


def test_a_stranger_is_led_to_the_sign_in_page(shown: Running, job: str) -> None:
    answer = Browser(shown.url).get(f"{PATH}/{job}")
    assert answer.status == 401
    assert f"/sign-in?to=%2Fjobs%2F{job}" in answer.text
    assert "cancel" not in answer.text


def test_whoever_signs_in_sees_their_own(shown: Running, tokens: Tokens, job: str) -> None:
    alice = signed_in(shown.url, tokens.make())
    assert job in alice.get(PATH).text
    [cookie] = [each for each in alice.cookies if each.name == "saeserve_token"]
    assert cookie.has_nonstandard_attr("HttpOnly")
    alice.send_form(PATH, "/sign-out")
    assert alice.get(PATH).status == 401


def test_others_do_not_see_it(shown: Running, tokens: Tokens, job: str) -> None:
    bob = signed_in(shown.url, tokens.make(owner="bob"))
    assert job not in bob.get(PATH).text
    assert bob.get(f"{PATH}/{job}").status == 404
    assert bob.get(f"{PATH}/{job}/curves/fvu.svg").status == 404


def test_a_scope_that_lacks_is_a_refusal(shown: Running, tokens: Tokens, job: str) -> None:
    reader = signed_in(shown.url, tokens.make(Scope.READ))
    refused = reader.send_form(f"{PATH}/{job}", f"{PATH}/{job}/cancel")
    assert refused.status == 403
    encoder = signed_in(shown.url, tokens.make(Scope.ENCODE))
    assert encoder.get(PATH).status == 403


def test_forms_submit_as_their_sender_and_wait_for_a_sign_in(
    shown: Running, tokens: Tokens
) -> None:
    path = "/models/sae@1/text"
    entries = {"text": "Once upon", "features": "3", "dataset": "acts"}
    bob = signed_in(shown.url, tokens.make(owner="bob"))
    made = bob.send_form(PATH, path, **entries)
    assert bob.get(f"{made.url.removeprefix(shown.url)}.json").json()["job"]["owner"] == "bob"
    refused = Browser(shown.url).send_form("/sign-in", path, **entries)
    assert refused.status == 401
    assert "Sign in in another tab" in refused.text
    assert "Once upon</textarea>" in refused.text


@pytest.mark.parametrize("token", ["", "odd", f"sae_{'0' * 16}_{'0' * 64}"])
def test_a_token_that_is_not_good_is_refused(shown: Running, token: str) -> None:
    browser = Browser(shown.url)
    answer = browser.send_form("/sign-in", "/sign-in", token=token, to=PATH)
    assert answer.status in (400, 401)
    assert 'role="alert"' in answer.text
    assert "saeserve_token" not in [cookie.name for cookie in browser.cookies]


def test_a_program_sends_its_token_in_the_header(shown: Running, tokens: Tokens, job: str) -> None:
    answer = Browser(shown.url).get(f"{PATH}.json", Authorization=f"Bearer {tokens.make()}")
    assert [each["id"] for each in answer.json()["jobs"]] == [job]


@pytest.mark.parametrize("to", ["https://evil.example/", "//evil.example", "/\\evil.example"])
def test_the_sign_in_leads_nowhere_else(shown: Running, tokens: Tokens, to: str) -> None:
    browser = Browser(shown.url)
    answer = browser.send_form("/sign-in", "/sign-in", token=tokens.make(), to=to)
    assert answer.url.startswith(shown.url)


def test_an_explorer_of_others_wants_a_control_that_asks_for_tokens(
    tmp_path_factory: pytest.TempPathFactory, valkey: Valkey, tokens: Tokens
) -> None:
    """A well-formed token would open what has no lock."""
    unlocked = Control(tmp_path_factory.mktemp("u"), valkey)
    unlocked.start()
    try:
        assert unlocked.server is not None
        with explorer(unlocked.server.bound, auth="tokens") as parts:
            program = Browser(parts.url)
            assert program.get(PATH).status == 401
            answer = program.get(PATH, Authorization=f"Bearer {tokens.make()}")
        assert answer.status == 409
        assert "asks for no token" in answer.text
    finally:
        unlocked.stop()


def test_pages_are_served_over_tls_of_services_over_tls(
    tmp_path_factory: pytest.TempPathFactory, valkey: Valkey
) -> None:
    folder = tmp_path_factory.mktemp("t")
    authority = Authority(folder)
    pair = authority.issue()
    tls: dict[str, Any] = {"tls_cert": pair.certificate, "tls_key": pair.key}
    service = Control(folder, valkey, authority.ca, auth="tokens", **tls)
    service.start()
    try:
        assert service.server is not None
        with explorer(service.server.bound, tls_ca=authority.ca, **tls) as parts:
            assert parts.url.startswith("https://")
            known = ssl.create_default_context(cafile=str(authority.ca))
            browser, token = Browser(parts.url, known), Tokens(service.store).make()
            page = browser.send_form("/sign-in", "/sign-in", token=token, to=PATH)
            assert (page.status, page.url) == (200, parts.url + PATH)
            assert [cookie.secure for cookie in browser.cookies] == [True, True]
            with pytest.raises(URLError, match="certificate verify failed"):
                Browser(parts.url).get(PATH)
    finally:
        service.stop()
