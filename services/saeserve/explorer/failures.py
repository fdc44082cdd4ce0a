"""Refusals as pages: the words of the RPC, and the status that HTTP has for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from saeserve.client.errors import ClientError, PreconditionError
from saeserve.explorer.answering import answer

log = logging.getLogger(__name__)

STATUSES = {
    "INVALID_ARGUMENT": HTTPStatus.BAD_REQUEST,
    "OUT_OF_RANGE": HTTPStatus.BAD_REQUEST,
    "UNAUTHENTICATED": HTTPStatus.UNAUTHORIZED,
    "PERMISSION_DENIED": HTTPStatus.FORBIDDEN,
    "NOT_FOUND": HTTPStatus.NOT_FOUND,
    "ALREADY_EXISTS": HTTPStatus.CONFLICT,
    "ABORTED": HTTPStatus.CONFLICT,
    "FAILED_PRECONDITION": HTTPStatus.CONFLICT,
    "RESOURCE_EXHAUSTED": HTTPStatus.SERVICE_UNAVAILABLE,
    "UNAVAILABLE": HTTPStatus.SERVICE_UNAVAILABLE,
    "UNIMPLEMENTED": HTTPStatus.NOT_IMPLEMENTED,
    "DEADLINE_EXCEEDED": HTTPStatus.GATEWAY_TIMEOUT,
}
"""By the code of a ClientError; others are 500."""


@dataclass(frozen=True)
class Failure:
    """What was wrong, where, and what to do."""

    status: int
    title: str
    message: str
    reason: str = ""
    field: str = ""
    remedy: str = ""
    command: str = ""
    """What makes that which is not there."""
    sign_in: bool = False
    """Whether signing in, with another token if there was one, may help."""


class NeedsJobError(PreconditionError):
    """A page that shows what no job has made yet."""

    command = ""
    """Submits the job."""

    @classmethod
    def after(cls, error: ClientError, command: str) -> Self:
        """The error, with the command that helps."""
        remedy = "submit this job, and open the page again when it has ended"
        text = _without_remedy(error)
        made = cls(text, reason=error.reason, field=error.field, remedy=remedy)
        made.command = command
        return made


def add_handlers(app: FastAPI) -> None:
    """Let `app` answer every failure with a page."""
    app.add_exception_handler(ClientError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def failure_of(error: ClientError) -> Failure:
    """The page of a refusal."""
    status = STATUSES.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    sign_in = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    sign_in = sign_in or error.reason == "BAD_TOKEN"
    command = error.command if isinstance(error, NeedsJobError) else ""
    return Failure(
        status,
        status.phrase,
        _without_remedy(error),
        error.reason,
        error.field,
        error.remedy,
        command,
        sign_in,
    )


def _without_remedy(error: ClientError) -> str:
    """What was wrong: a server's message ends with the remedy, which has its own place."""
    return error.message.removesuffix(f" — {error.remedy}") if error.remedy else error.message


def shown(request: Request, failure: Failure, retry_after_s: float = 0.0) -> Response:
    """Answer with a failure."""
    response = answer(request, "failure.html", failure, failure.status)
    if retry_after_s:
        response.headers["Retry-After"] = str(max(1, round(retry_after_s)))
    return response


def _refused(request: Request, error: Exception) -> Response:
    refused = cast(ClientError, error)
    return shown(request, failure_of(refused), refused.retry_after_s)


def _malformed(request: Request, error: Exception) -> Response:
    found = cast(Sequence[dict[str, object]], cast(RequestValidationError, error).errors())
    place = cast(Sequence[object], found[0].get("loc", ()))
    field = str(place[-1]) if place else ""
    message = f"{field}: {found[0].get('msg', 'it is malformed')}"
    remedy = "correct the address, or go to the page by a link"
    failure = Failure(400, "Bad Request", message, "BAD_QUERY", field, remedy)
    return shown(request, failure)


def _http(request: Request, error: Exception) -> Response:
    raised = cast(HTTPException, error)
    title = HTTPStatus(raised.status_code).phrase
    text = f"there is nothing at {request.url.path}" if raised.status_code == 404 else title
    remedy = "look for it from the list of jobs or models"
    return shown(request, Failure(raised.status_code, title, text, remedy=remedy))


def _unexpected(request: Request, error: Exception) -> Response:
    log.exception("%s could not be answered", request.url.path, exc_info=error)
    remedy = "the explorer's log says why"
    return shown(request, Failure(500, "Internal Server Error", "this page failed", remedy=remedy))
