"""Signing in: a page that takes a token, which the browser then sends with each request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from saeserve.client.errors import ClientError, PermissionDeniedError
from saeserve.explorer.answering import form_of, html
from saeserve.explorer.calling import Clients, clients_of
from saeserve.explorer.failures import failure_of
from saeserve.explorer.security import TOKEN_COOKIE, check_form, set_cookie

router = APIRouter()


@dataclass(frozen=True)
class SignIn:
    """The form, where it leads, and why a token was refused."""

    to: str
    refused: str = ""


@router.get("/sign-in", include_in_schema=False)
def sign_in_page(request: Request, to: Annotated[str, Query(max_length=2000)] = "/") -> Response:
    """Show the form."""
    return html(request, "sign_in.html", SignIn(local(to)))


@router.post("/sign-in", include_in_schema=False)
async def sign_in(request: Request) -> Response:
    """Try the token, and keep it in the browser when the deployment takes it."""
    fields = await form_of(request)
    check_form(request, fields)
    token, to = fields.get("token", "").strip(), local(fields.get("to", "/"))
    try:
        await asyncio.to_thread(_try, clients_of(request), token)
    except ClientError as error:
        refused = failure_of(error)
        shown = SignIn(to, f"{error.message}. {error.remedy}" if error.remedy else error.message)
        return html(request, "sign_in.html", shown, refused.status)
    response = RedirectResponse(to, 303)
    set_cookie(request, response, TOKEN_COOKIE, token)
    return response


@router.post("/sign-out", include_in_schema=False)
async def sign_out(request: Request) -> Response:
    """Let the browser forget the token."""
    check_form(request, await form_of(request))
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(TOKEN_COOKIE, path="/", httponly=True, samesite="strict")
    return response


def local(to: str) -> str:
    """A path of this explorer: a link must not lead through its sign-in to another site."""
    parts = urlsplit(to)
    safe = to.startswith("/") and not to.startswith(("//", "/\\"))
    return to if safe and not parts.scheme and not parts.netloc else "/"


def _try(clients: Clients, token: str) -> None:
    """Raise ClientError for a token that the deployment does not take. One that may not read, only
    encode for example, signs in as well: its pages say what it lacks."""
    try:
        clients.client(token).server.workers()
    except PermissionDeniedError:
        return
