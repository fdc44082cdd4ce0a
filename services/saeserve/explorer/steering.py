"""The steering sandbox: a form that has a language model go on with a prompt, as it is and with one
feature moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from saeserve.client import Client
from saeserve.client.errors import InvalidArgumentError, PreconditionError
from saeserve.client.feature_values import Feature, FeatureBundle
from saeserve.client.model_values import Model
from saeserve.explorer.answering import view
from saeserve.explorer.calling import CallersClient
from saeserve.explorer.formats import exact
from saeserve.explorer.models import reference_of
from saeserve.explorer.security import ONCE_FIELD
from saeserve.explorer.submitting import (
    JobForm,
    earlier,
    entry,
    real_number,
    submitted,
    whole_number,
)

ACTIONS = ("add", "set", "scale")
_PATH = "/models/{reference}/features/{number}/steer"

router = APIRouter()


@dataclass(frozen=True)
class SteerForm(JobForm):
    """What is to be done with a feature while a prompt is continued; entries are text, as they were
    typed."""

    feature: int
    prompt: str
    action: str
    value: str
    max_new_tokens: str
    temperature: str
    seed: str


@view(router, _PATH, "steer.html", "A form that steers by a feature")
def steer_page(
    request: Request,  # noqa: ARG001 - of every view
    client: CallersClient,
    reference: str,
    number: int,
    like: str = "",
) -> SteerForm:
    """Show the form, with the entries of the generate job `like` if one is named."""
    model = client.models.get(reference)
    spec = earlier(client, like, "generate")
    return _form_like(model, number, spec) if spec else _first_form(client, model, number)


@router.post(_PATH, include_in_schema=False)
async def steer(request: Request, reference: str, number: int) -> Response:
    """Submit the generate job that the form describes."""
    return await submitted(request, "steer.html", partial(_sent, reference, number), _spec)


def form_of_feature(model: Model, feature: Feature, bundle: FeatureBundle) -> SteerForm:
    """The form that a feature's page begins with: its largest activation is added."""
    return _form(reference_of(model), feature.summary.feature, bundle.dataset, feature.summary.max)


def _first_form(client: Client, model: Model, number: int) -> SteerForm:
    """Without a bundle, its reader has to choose how far to move the feature."""
    try:
        feature = client.features.get(reference_of(model), number)
        bundle = client.features.describe(reference_of(model), job=feature.job)
    except PreconditionError:
        return _form(reference_of(model), number, model.dataset)
    return form_of_feature(model, feature, bundle)


def _form(reference: str, feature: int, dataset: str, value: float = 0.0) -> SteerForm:
    return SteerForm(
        reference=reference,
        dataset=dataset,
        once="",
        refused=None,
        feature=feature,
        prompt="",
        action="add",
        value=f"{value:.3g}" if value else "",
        max_new_tokens="32",
        temperature="0",
        seed="0",
    )


def _form_like(model: Model, number: int, spec: Mapping[str, Any]) -> SteerForm:
    """The entries of an earlier job, for the feature `number`."""
    edits = [each for each in spec.get("edits", ()) if each.get("feature", 0) == number]
    edit: Mapping[str, Any] = edits[0] if edits else {}
    action = next((name for name in ACTIONS if name in edit), "add")
    return SteerForm(
        reference=reference_of(model),
        dataset=str(spec.get("dataset", "")),
        once="",
        refused=None,
        feature=number,
        prompt=str(next(iter(spec.get("prompts", ())), "")),
        action=action,
        value=exact(edit[action]) if action in edit else "",
        max_new_tokens=str(spec.get("max_new_tokens", 32)),
        temperature=exact(spec.get("temperature", 0.0)),
        seed=str(spec.get("seed", 0)),
    )


def _sent(reference: str, number: int, fields: Mapping[str, str]) -> SteerForm:
    return SteerForm(
        reference=reference,
        dataset=entry(fields, "dataset"),
        once=entry(fields, ONCE_FIELD),
        refused=None,
        feature=number,
        prompt=fields.get("prompt", "").replace("\r\n", "\n"),
        action=entry(fields, "action", "add"),
        value=entry(fields, "value"),
        max_new_tokens=entry(fields, "max_new_tokens", "32"),
        temperature=entry(fields, "temperature", "0"),
        seed=entry(fields, "seed", "0"),
    )


def _spec(form: SteerForm) -> Mapping[str, Any]:
    """The job. Raises InvalidArgumentError for entries that are not what they should be; the
    bounds of numbers are control's."""
    if form.action not in ACTIONS:
        raise InvalidArgumentError(
            f"a feature cannot be steered by {form.action[:40]!r}",
            reason="BAD_ACTION",
            field="action",
            remedy=f"choose one of {', '.join(ACTIONS)}",
        )
    edit = {"feature": form.feature, form.action: real_number(form.value, "value")}
    spec = {
        "model": form.reference,
        "dataset": form.dataset,
        "prompts": [form.prompt],
        "edits": [edit],
        "max_new_tokens": whole_number(form.max_new_tokens, "max_new_tokens"),
        "temperature": real_number(form.temperature, "temperature"),
        "seed": whole_number(form.seed, "seed"),
    }
    return {"generate": spec}
