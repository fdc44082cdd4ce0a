"""What views are given: the caller's client, and the plots that were drawn."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from saeserve.client import Client
from saeserve.explorer.deployment import Deployment
from saeserve.explorer.pictures import Pictures
from saeserve.explorer.security import token_of


def deployment_of(request: Request) -> Deployment:
    """The deployment that this explorer shows."""
    return cast(Deployment, request.app.state.deployment)


def _client(request: Request) -> Client:
    return deployment_of(request).client(token_of(request))


def _pictures(request: Request) -> Pictures:
    return cast(Pictures, request.app.state.pictures)


CallersClient = Annotated[Client, Depends(_client)]
KeptPictures = Annotated[Pictures, Depends(_pictures)]
