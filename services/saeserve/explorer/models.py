"""Pages of models: the list, and one version with its figures, density and lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from fastapi import APIRouter, Request, Response

from saeserve.client import Client
from saeserve.client.errors import NotFoundError
from saeserve.client.evaluated import newest_evaluation
from saeserve.client.model_values import Model
from saeserve.explorer.answering import view
from saeserve.explorer.calling import CallersClient, KeptPictures
from saeserve.explorer.jobs import PAGE, PageNumber
from saeserve.explorer.plots import Bars, Plot

router = APIRouter()


@dataclass(frozen=True)
class ModelName:
    """A name, its newest version, and how many versions it has."""

    newest: Model
    versions: int
    aliases: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ModelList:
    """One page of the names of models."""

    models: tuple[ModelName, ...]
    page: int
    more: bool


@dataclass(frozen=True)
class DensityBin:
    """Latents whose density, a share of the evaluated rows, has a log10 in [lower, upper)."""

    lower: float
    upper: float
    latents: int


@dataclass(frozen=True)
class Evaluation:
    """What an evaluate job found of a model."""

    job: str
    dataset: str
    metrics: Mapping[str, float]
    density: tuple[DensityBin, ...]


@dataclass(frozen=True)
class ModelPage:
    """One version of a model, its other versions, and its newest evaluation."""

    model: Model
    reference: str
    """name@version: the address of this page, whatever aliases say later."""
    versions: tuple[Model, ...]
    evaluation: Evaluation | None


@view(router, "/models", "models.html", "Names of models, each with its newest version")
def model_list(request: Request, client: CallersClient, page: PageNumber = 1) -> ModelList:  # noqa: ARG001 - of every view
    """Show the models."""
    named = groupby(client.models.list(), lambda model: model.name)
    names = (_named(list(versions)) for _, versions in named)
    shown = tuple(islice(names, (page - 1) * PAGE, page * PAGE + 1))
    return ModelList(shown[:PAGE], page, len(shown) > PAGE)


@view(router, "/models/{reference}", "model.html", "A version of a model: name, name@3, name@alias")
def model_page(request: Request, client: CallersClient, reference: str) -> ModelPage:  # noqa: ARG001 - of every view
    """Show a version of a model."""
    model = client.models.get(reference)
    versions = sorted(client.models.list(model.name), key=lambda each: -each.version)
    return ModelPage(model, reference_of(model), tuple(versions), evaluation_of(client, model))


@router.get("/models/{reference}/density.svg", include_in_schema=False)
def density(
    request: Request,
    client: CallersClient,
    pictures: KeptPictures,
    reference: str,
    narrow: bool = False,
) -> Response:
    """Draw how often the latents of a model fire."""
    model = client.models.get(reference)
    found = evaluation_of(client, model)
    if found is None:
        raise not_evaluated(f"{reference_of(model)} has not been evaluated")
    return pictures.answer(request, density_plot([(reference_of(model), found)]), narrow=narrow)


def not_evaluated(message: str) -> NotFoundError:
    """The error for a density that no evaluate job has measured."""
    remedy = "submit an evaluate job for the model"
    return NotFoundError(message, reason="NO_EVALUATION", remedy=remedy)


def reference_of(model: Model) -> str:
    """name@version."""
    return f"{model.name}@{model.version}"


def density_plot(evaluated: Sequence[tuple[str, Evaluation]]) -> Plot:
    """How often the latents of models fire; of one model, or of several to compare."""
    latents = sum(each.latents for each in evaluated[0][1].density)
    several = len(evaluated) > 1
    counted = f"{len(evaluated)} models" if several else f"n = {latents:,} latents"
    return Plot(
        title=f"Density ({counted})",
        x_label="density, share of evaluated rows",
        y_label="latents",
        bars=tuple(
            _bars(name if several else "", found) for name, found in evaluated if found.density
        ),
        x_log=True,
    )


def evaluation_of(client: Client, model: Model) -> Evaluation | None:
    """The newest evaluation of a version that the caller may see."""
    found = newest_evaluation(client.jobs, model.resource)
    if found is None:
        return None
    job, output = found
    return _evaluation(job, output.evaluation or {})


def _evaluation(job: str, found: Mapping[str, Any]) -> Evaluation:
    bins = tuple(DensityBin(**each) for each in found["density"])
    return Evaluation(job, str(found["dataset"]), dict(found["metrics"]), bins)


def _bars(label: str, found: Evaluation) -> Bars:
    edges = (*(each.lower for each in found.density), found.density[-1].upper)
    counts = tuple(each.latents for each in found.density)
    return Bars(label, tuple(10.0**edge for edge in edges), counts)


def _named(versions: Sequence[Model]) -> ModelName:
    newest = max(versions, key=lambda model: model.version)
    aliases = [(alias, each.version) for each in versions for alias in each.aliases]
    return ModelName(newest, len(versions), tuple(sorted(aliases)))
