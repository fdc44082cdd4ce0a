"""Registers views: what a function returns is a page at its address, and JSON at ADDRESS.json.

JSON is also answered at the page's own address to whoever accepts JSON and not HTML.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import TypeAdapter

from saeserve.client.errors import InvalidArgumentError
from saeserve.explorer import formats
from saeserve.explorer.security import (
    FORM_COOKIE,
    FORM_FIELD,
    ONCE_FIELD,
    form_token,
    set_cookie,
    token_of,
)

MOST_FORM_BYTES = 64 * 2**10
_JSON = ".json"

_pages = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_pages.filters.update(formats.FILTERS)

View = Callable[..., Any]


def view(router: APIRouter, path: str, template: str, summary: str) -> Callable[[View], View]:
    """Register a view, which takes `request` and returns a dataclass, at `path`."""

    def register(shown: View) -> View:
        @functools.wraps(shown)
        def page(*args: Any, **kwargs: Any) -> Response:  # noqa: ANN401 - the view's own
            made = shown(*args, **kwargs)
            return answer(kwargs["request"], template, made)

        @functools.wraps(shown)
        def data(*args: Any, **kwargs: Any) -> Response:  # noqa: ANN401 - the view's own
            return as_json(shown(*args, **kwargs))

        made = get_type_hints(shown)["return"]
        name = shown.__name__
        router.add_api_route(path + _JSON, data, response_model=made, summary=summary, name=name)
        router.add_api_route(path, page, response_model=None, include_in_schema=False)
        return shown

    return register


def answer(request: Request, template: str, shown: object, status: int = 200) -> Response:
    """A page, or JSON where the caller wants that."""
    if wants_json(request):
        return as_json(shown, status)
    return html(request, template, shown, status)


def html(request: Request, template: str, shown: object, status: int = 200) -> Response:
    """A page; `shown` is `it` in its template."""
    text = _pages.get_template(template).render(
        it=shown,
        form_field=FORM_FIELD,
        form_token=form_token(request),
        once_field=ONCE_FIELD,
        once=secrets.token_urlsafe(12),
        here=_here(request),
        exported=request.app.state.exported,
        signed_in=bool(token_of(request)),
    )
    response = HTMLResponse(text, status, {"Cache-Control": "no-store"})
    if FORM_COOKIE not in request.cookies:
        set_cookie(request, response, FORM_COOKIE, form_token(request))
    return response


def as_json(shown: object, status: int = 200) -> Response:
    """The facts of a page; numbers that are not finite become null."""
    body = _adapter(type(shown)).dump_json(shown)
    return Response(body, status, {"Cache-Control": "no-store"}, "application/json")


def wants_json(request: Request) -> bool:
    """Whether the address ends with .json, or the caller accepts JSON and not HTML."""
    accepted = request.headers.get("accept", "")
    named = "application/json" in accepted and "text/html" not in accepted
    return request.url.path.endswith(_JSON) or named


async def form_of(request: Request) -> Mapping[str, str]:
    """The fields of a form that was sent. Raises InvalidArgumentError for one that is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_FORM_BYTES:
            raise InvalidArgumentError(
                f"the form has more than {MOST_FORM_BYTES:,} bytes",
                reason="FORM_TOO_LONG",
                remedy="send a shorter text; longer ones are data sets",
            )
    text = body.decode("utf-8", errors="replace")
    return dict(parse_qsl(text, keep_blank_values=True))


@functools.cache
def _adapter(kind: type[object]) -> TypeAdapter[object]:
    return TypeAdapter(kind)


def _here(request: Request) -> str:
    """The permalink of this view: path and query."""
    path = request.url.path
    return f"{path}?{request.url.query}" if request.url.query else path
