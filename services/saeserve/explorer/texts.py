"""The page that asks what fires on a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from saeserve.client import Client
from saeserve.client.errors import PreconditionError
from saeserve.client.model_values import Model
from saeserve.explorer.answering import view
from saeserve.explorer.calling import CallersClient
from saeserve.explorer.models import reference_of
from saeserve.explorer.security import ONCE_FIELD
from saeserve.explorer.submitting import (
    JobForm,
    earlier,
    entry,
    submitted,
    whole_number,
)

FEATURES = 8
"""Features of each token that are asked for."""
_PATH = "/models/{reference}/text"

router = APIRouter()


@dataclass(frozen=True)
class TextForm(JobForm):
    """A text, and how many features of each token are wanted; entries as they were typed."""

    text: str
    features: str
    split: bool


@view(router, _PATH, "text.html", "A form that asks which features fire on a text")
def text_page(request: Request, client: CallersClient, reference: str, like: str = "") -> TextForm:  # noqa: ARG001 - of every view
    """Show the form, with the entries of the annotate job `like` if one is named."""
    model = client.models.get(reference)
    spec = earlier(client, like, "annotate")
    return TextForm(
        reference=reference_of(model),
        dataset=str(spec.get("dataset", "")) or _dataset(client, model),
        once="",
        refused=None,
        text=str(next(iter(spec.get("texts", ())), "")),
        features=str(spec.get("features", FEATURES)),
        split=spec.get("long_texts") == "split",
    )


@router.post(_PATH, include_in_schema=False)
async def annotate(request: Request, reference: str) -> Response:
    """Submit the annotate job that the form describes."""
    return await submitted(request, "text.html", partial(_sent, reference), _spec)


def _dataset(client: Client, model: Model) -> str:
    """That of the newest bundle, else that which the model was trained on."""
    try:
        return client.features.describe(reference_of(model)).dataset
    except PreconditionError:
        return model.dataset


def _sent(reference: str, fields: Mapping[str, str]) -> TextForm:
    return TextForm(
        reference=reference,
        dataset=entry(fields, "dataset"),
        once=entry(fields, ONCE_FIELD),
        refused=None,
        text=fields.get("text", "").replace("\r\n", "\n"),
        features=entry(fields, "features", str(FEATURES)),
        split=bool(entry(fields, "split")),
    )


def _spec(form: TextForm) -> Mapping[str, Any]:
    """The job. Raises InvalidArgumentError."""
    spec = {
        "model": form.reference,
        "dataset": form.dataset,
        "texts": [form.text],
        "features": whole_number(form.features, "features"),
        "long_texts": "split" if form.split else "refuse",
    }
    return {"annotate": spec}
