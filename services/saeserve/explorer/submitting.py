"""Submits the job that a form describes; a refusal shows the form again, as it was filled in."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from saeserve.client import Client
from saeserve.client.errors import ClientError, InvalidArgumentError
from saeserve.client.values import Job
from saeserve.explorer.answering import form_of, html
from saeserve.explorer.calling import clients_of
from saeserve.explorer.failures import Failure, failure_of
from saeserve.explorer.formats import segment
from saeserve.explorer.security import check_form, token_of


@dataclass(frozen=True)
class JobForm:
    """A form that submits a job: the text of its entries, and why they were refused if they
    were."""

    reference: str
    dataset: str
    once: str
    refused: Failure | None


FormT = TypeVar("FormT", bound=JobForm)


async def submitted(
    request: Request,
    template: str,
    form_with: Callable[[Mapping[str, str]], FormT],
    spec_of: Callable[[FormT], Mapping[str, Any]],
) -> Response:
    """Lead to the job that the sent form makes, else show it again in `template`.

    Raises PermissionDeniedError for a form that another site sent.
    """
    fields = await form_of(request)
    check_form(request, fields)
    form = form_with(fields)
    try:
        job = await asyncio.to_thread(_submit, request, form, spec_of)
    except ClientError as error:
        refused = failure_of(error)
        return html(request, template, replace(form, refused=refused), refused.status)
    return RedirectResponse(f"/jobs/{segment(job.id)}", 303)


def entry(fields: Mapping[str, str], name: str, default: str = "") -> str:
    """The text of an entry, without what stands around it."""
    return fields.get(name, default).strip()


def whole_number(text: str, name: str) -> int:
    """A whole number. Raises InvalidArgumentError."""
    try:
        return int(text)
    except ValueError:
        raise _not_a_number(text, name, "a whole number") from None


def real_number(text: str, name: str) -> float:
    """A finite number. Raises InvalidArgumentError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _not_a_number(text, name, "a number")
    return value


def earlier(client: Client, job: str, kind: str) -> Mapping[str, Any]:
    """The spec of the job whose entries a form is to begin with; empty for "" and another kind."""
    return client.jobs.get(job).resolved_spec.get(kind, {}) if job else {}


def _submit(request: Request, form: FormT, spec_of: Callable[[FormT], Mapping[str, Any]]) -> Job:
    client = clients_of(request).client(token_of(request))
    spec = spec_of(form)
    return client.jobs.submit(spec, request_id=_request_id(form.once, spec))


def _request_id(once: str, spec: Mapping[str, Any]) -> str:
    """The same for a form that is sent twice, another one once its entries were changed."""
    body = json.dumps([once, spec], sort_keys=True)
    return f"explorer-{hashlib.sha256(body.encode()).hexdigest()[:32]}"


def _not_a_number(text: str, name: str, what: str) -> InvalidArgumentError:
    message = f"{name.replace('_', ' ')} is {text[:40]!r}, which is not {what}"
    remedy = f"write {what}, with a point for decimals" if what == "a number" else f"write {what}"
    return InvalidArgumentError(message, reason="BAD_NUMBER", field=name, remedy=remedy)
