"""The web application: routes, static files, and what stands around every answer."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saeserve.explorer import (
    comparing,
    failures,
    features,
    jobs,
    models,
    signing_in,
    steering,
    texts,
)
from saeserve.explorer.calling import Clients
from saeserve.explorer.deployment import Deployment
from saeserve.explorer.metrics import ExplorerMetrics
from saeserve.explorer.pictures import Pictures
from saeserve.explorer.security import HEADERS, PAGE_POLICY, host_is_known
from saeserve.explorer.settings import ExplorerSettings

STATIC = Path(__file__).parent / "static"
TITLE = "saeserve explorer"


def application(
    settings: ExplorerSettings, deployment: Deployment, metrics: ExplorerMetrics
) -> ASGIApp:
    """The whole application."""
    return Gate(pages_of(deployment, metrics), metrics, settings.known_hosts)


def pages_of(clients: Clients, metrics: ExplorerMetrics, *, exported: bool = False) -> FastAPI:
    """Every page, of what `clients` may see; without forms where it is `exported`."""
    app = api()
    app.state.clients = clients
    app.state.pictures = Pictures(metrics)
    app.state.exported = exported
    return app


def api() -> FastAPI:
    """Routes alone; `docs/openapi.json` is what it says of them."""
    # The library's own documentation pages load scripts of other hosts.
    app = FastAPI(title=TITLE, version=version("saeserve"), docs_url=None, redoc_url=None)
    failures.add_handlers(app)
    app.add_api_route("/", _home, include_in_schema=False)
    app.add_api_route("/favicon.ico", _icon, include_in_schema=False)
    for part in (jobs, models, features, steering, texts, comparing, signing_in):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _home() -> Response:
    return RedirectResponse("/jobs", 303)


def _icon(request: Request) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/static/icon.svg", 301)


class Gate:
    """Stands before the application: refuses strange host names, adds headers, counts."""

    def __init__(
        self, app: ASGIApp, metrics: ExplorerMetrics, hosts: frozenset[str] | None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        began, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _protect(MutableHeaders(scope=message))
            await send(message)

        try:
            await self._application(scope)(scope, receive, sent)
        finally:
            route: Any = scope.get("route")
            path = str(getattr(route, "path", ""))
            self._metrics.answered(path, status, time.perf_counter() - began)

    def _application(self, scope: Scope) -> ASGIApp:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        if host_is_known(host.decode("latin-1"), self._hosts):
            return self._app
        text = "this explorer does not answer to this host name: add it to SAESERVE_EXPLORER_HOSTS"
        return Response(text + "\n", 421, media_type="text/plain")


def _protect(headers: MutableHeaders) -> None:
    headers.setdefault("Content-Security-Policy", PAGE_POLICY)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
