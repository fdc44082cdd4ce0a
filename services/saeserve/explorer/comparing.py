"""Compares two models or seeds: their figures and densities side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from saeserve.client import Client
from saeserve.client.model_values import Model
from saeserve.explorer.alike import PairList, pairs_of
from saeserve.explorer.answering import view
from saeserve.explorer.calling import CallersClient, KeptPictures
from saeserve.explorer.jobs import PageNumber
from saeserve.explorer.models import (
    Evaluation,
    density_plot,
    evaluation_of,
    not_evaluated,
    reference_of,
)

Reference = Annotated[str, Query(max_length=300)]

router = APIRouter()


@dataclass(frozen=True)
class Compared:
    """One of the two."""

    reference: str
    model: Model
    evaluation: Evaluation | None


@dataclass(frozen=True)
class ComparedFigure:
    """A figure of both; null where it was not measured."""

    name: str
    first: float | None
    second: float | None


@dataclass(frozen=True)
class Comparison:
    """Two models, or none yet; the references are as they were asked for."""

    a: str
    b: str
    models: tuple[Compared, ...]
    figures: tuple[ComparedFigure, ...]
    page: int = 1
    pairs: PairList | None = None


@view(router, "/compare", "compare.html", "Two models side by side")
def comparison(
    request: Request,  # noqa: ARG001 - of every view
    client: CallersClient,
    a: Reference = "",
    b: Reference = "",
    page: PageNumber = 1,
) -> Comparison:
    """Show two models."""
    if not (a and b):
        return Comparison(a, b, (), ())
    first, second = _compared(client, a), _compared(client, b)
    pairs = pairs_of(client, first.reference, second.reference, page)
    return Comparison(a, b, (first, second), _figures(first, second), page, pairs)


@router.get("/compare/density.svg", include_in_schema=False)
def densities(
    request: Request,
    client: CallersClient,
    pictures: KeptPictures,
    a: Reference,
    b: Reference,
    narrow: bool = False,
) -> Response:
    """Draw how often the latents of both fire."""
    both = (_compared(client, a), _compared(client, b))
    found = [(each.reference, each.evaluation) for each in both if each.evaluation is not None]
    if not found:
        raise not_evaluated(f"neither {a} nor {b} has been evaluated")
    return pictures.answer(request, density_plot(found), narrow=narrow)


def _compared(client: Client, reference: str) -> Compared:
    model = client.models.get(reference)
    return Compared(reference_of(model), model, evaluation_of(client, model))


def _figures(first: Compared, second: Compared) -> tuple[ComparedFigure, ...]:
    ours, theirs = _metrics(first), _metrics(second)
    names = sorted({*ours, *theirs})
    return tuple(ComparedFigure(name, ours.get(name), theirs.get(name)) for name in names)


def _metrics(one: Compared) -> dict[str, float]:
    """What an evaluation measured counts before what was known when the model was published."""
    evaluated = one.evaluation.metrics if one.evaluation else dict[str, float]()
    return {**one.model.metrics, **evaluated}
