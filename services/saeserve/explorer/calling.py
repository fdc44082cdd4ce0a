"""What views are given: the caller's client, and the plots that were drawn."""

from __future__ import annotations

from typing import Annotated, Protocol, cast

from fastapi import Depends, Request

from saeserve.client import Client
from saeserve.explorer.pictures import Pictures
from saeserve.explorer.security import token_of


class Clients(Protocol):
    """Whose eyes the pages are seen with."""

    def client(self, token: str) -> Client:
        """The client of the caller with this token, "" for none. Raises ClientError."""
        ...


def clients_of(request: Request) -> Clients:
    """The clients of the deployment that is shown."""
    return cast(Clients, request.app.state.clients)


def _client(request: Request) -> Client:
    return clients_of(request).client(token_of(request))


def _pictures(request: Request) -> Pictures:
    return cast(Pictures, request.app.state.pictures)


CallersClient = Annotated[Client, Depends(_client)]
KeptPictures = Annotated[Pictures, Depends(_pictures)]
