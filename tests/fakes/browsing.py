"""A browser without scripts: keeps cookies, follows redirects on request, sends forms."""

from __future__ import annotations

import http.cookiejar
import json
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urljoin

_FIELD = re.compile(r'name="form_token" value="([^"]+)"')


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str
    url: str

    def json(self) -> Any:  # noqa: ANN401 - whatever the answer holds
        assert self.headers["content-type"] == "application/json", self.headers
        return json.loads(self.text)


class Browser:
    """Talks to an explorer at `url`."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self.url = url
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPCookieProcessor(self.cookies),
            urllib.request.HTTPSHandler(context=tls),
        )

    def get(self, path: str, **headers: str) -> Answer:
        return self._open(path, None, headers)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Answer:
        return self._open(path, urlencode(fields).encode(), headers)

    def send_form(self, page: str, action: str, /, **fields: str) -> Answer:
        """Send a form with the token that `page` gave it."""
        found = _FIELD.search(self.get(page).text)
        assert found is not None, f"no form on {page}"
        return self.post(action, {"form_token": found[1], **fields})

    def _open(self, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(urljoin(self.url, path), body, named)
        try:
            with self._opener.open(request, timeout=60) as answer:
                return _answer(answer)
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error)


def _answer(answer: Any) -> Answer:  # noqa: ANN401 - of http.client or urllib
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(answer.status, headers, answer.read().decode(), answer.url)
