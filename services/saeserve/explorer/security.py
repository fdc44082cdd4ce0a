"""What browsers are held to: content policy, host names, cookies and the token of forms."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import Literal

from fastapi import Request, Response

from saeserve.client.errors import PermissionDeniedError

TOKEN_COOKIE = "saeserve_token"
FORM_COOKIE = "saeserve_form"
FORM_FIELD = "form_token"
ONCE_FIELD = "once"
"""A form's own random word: sent twice with the same entries, a form submits one job."""
_BEARER = "bearer "
_OWN_SITE = ("same-origin", "none")

PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""A plot's file has styles and no script; pages show it as an image, in which nothing runs."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def token_of(request: Request) -> str:
    """The caller's token: of a program's Authorization header, or of the browser's cookie."""
    header = request.headers.get("authorization", "")
    if header.lower().startswith(_BEARER):
        return header[len(_BEARER) :].strip()
    return request.cookies.get(TOKEN_COOKIE, "")


def form_token(request: Request) -> str:
    """What forms of this browser carry; made with its first page."""
    known = request.cookies.get(FORM_COOKIE) or getattr(request.state, FORM_COOKIE, "")
    made = known or secrets.token_urlsafe(24)
    setattr(request.state, FORM_COOKIE, made)
    return made


def check_form(request: Request, fields: Mapping[str, str]) -> None:
    """Raise PermissionDeniedError for a form that another site sent."""
    known, sent = request.cookies.get(FORM_COOKIE, ""), fields.get(FORM_FIELD, "")
    site = request.headers.get("sec-fetch-site", "none")
    if known and site in _OWN_SITE and hmac.compare_digest(known.encode(), sent.encode()):
        return
    raise PermissionDeniedError(
        "this form did not come from a page of this explorer",
        reason="FOREIGN_FORM",
        remedy="open the page again, with cookies allowed, and send the form once more",
    )


def set_cookie(
    request: Request, response: Response, name: Literal["saeserve_token", "saeserve_form"], to: str
) -> None:
    """Give the browser a cookie that scripts cannot read and other sites cannot send."""
    secure = request.url.scheme == "https"
    response.set_cookie(name, to, httponly=True, samesite="strict", secure=secure, path="/")


def host_is_known(host: str, known: frozenset[str] | None) -> bool:
    """Whether a request's Host header names this explorer: a page of another site that points its
    own name at this machine (DNS rebinding) does not."""
    if known is None:
        return True
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower() in known
