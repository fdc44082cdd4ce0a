"""`saeserve models features`: what the features of a model fire on, as a collect job found it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from saeserve.cli.feature_page import print_feature, score_text
from saeserve.cli.figures import figure, listed
from saeserve.cli.models import Reference
from saeserve.cli.output import Json, connect, print_json, say
from saeserve.cli.refusals import refused
from saeserve.cli.tables import print_table
from saeserve.client import Client
from saeserve.client.feature_bundles import Order
from saeserve.client.feature_values import (
    FeatureBundle,
    FeatureFilter,
    FeaturePage,
    TokenFeatures,
)
from saeserve.explorer.formats import visible

_ORDERS: tuple[Order, ...] = ("density", "max", "feature")
_OF_A_TOKEN = 8
"""Features listed of each token that a search finds."""


def features(
    reference: Reference,
    feature: Annotated[
        list[int] | None, typer.Option(help="Show all of this feature; may be repeated.")
    ] = None,
    sort: Annotated[str, typer.Option(help="density, max or feature.")] = "density",
    ascending: Annotated[bool, typer.Option("--ascending", help="Smallest first.")] = False,
    search_token: Annotated[
        str | None, typer.Option(help="Features that fire most on a token, by its text.")
    ] = None,
    search_label: Annotated[str | None, typer.Option(help="Words that the label holds.")] = None,
    min_density: Annotated[float | None, typer.Option(help="Share of rows at least.")] = None,
    max_density: Annotated[float | None, typer.Option(help="Share of rows at most.")] = None,
    dead: Annotated[
        bool | None, typer.Option("--dead/--alive", help="Those that never fired, or none of them.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Lines of the list.")] = 20,
    contexts: Annotated[
        int, typer.Option(min=0, help="With --feature: contexts of each group.")
    ] = 5,
    dataset: Annotated[
        str | None, typer.Option(help="The newest bundle of this data set, not of all.")
    ] = None,
    job: Annotated[str | None, typer.Option(help="The bundle of this collect job.")] = None,
    as_json: Json = False,
) -> None:
    """List a model's features, or show what one of them fires on."""
    order = _order(sort)
    where = FeatureFilter(min_density, max_density, None, dead, search_label or "")
    with connect() as client:
        bundle = _bundle(client, reference, job or "", dataset)
        model, made_by = bundle.model, bundle.job
        if feature:
            shown = [client.features.get(model, each, job=made_by) for each in feature]
            if as_json:
                print_json(shown)
                return
            for each in shown:
                print_feature(each, bundle, contexts)
        elif search_token is not None:
            tokens = client.features.search_token(model, search_token, job=made_by)
            print_json(tokens) if as_json else _print_tokens(tokens)
        else:
            page = client.features.page(
                model, where=where, order_by=order, ascending=ascending, size=limit, job=made_by
            )
            print_json(page) if as_json else _print_page(page, bundle)


def _order(sort: str) -> Order:
    for each in _ORDERS:
        if each == sort:
            return each
    raise refused(
        f"features cannot be sorted by {sort!r}",
        field="sort",
        remedy=f"choose one of {listed(_ORDERS)}",
    )


def _bundle(client: Client, reference: str, job: str, dataset: str | None) -> FeatureBundle:
    """The bundle that is asked for. Raises ClientError."""
    newest = client.features.describe(reference, job=job)
    if dataset is None or newest.dataset == dataset:
        return newest
    others = () if job else newest.jobs
    found = (client.features.describe(newest.model, job=each) for each in others)
    made = next((each for each in found if each.dataset == dataset), None)
    if made is None:
        raise refused(
            f"nothing was collected of {newest.model} on the data set {dataset}"
            + (f" by job {job}" if job else ""),
            field="dataset",
            remedy=f"leave --dataset out, or submit collect --model {reference} --dataset "
            + dataset,
        )
    return made


def _print_page(page: FeaturePage, bundle: FeatureBundle) -> None:
    say(
        f"{bundle.model} on {bundle.dataset}: {bundle.rows:,} rows, {bundle.firing_features:,} of "
        f"{bundle.d_sae:,} features fire; collected by {bundle.job}"
    )
    print_table(
        ("feature", "density", "firings", "max", "mean", "label", "score"),
        (
            (
                each.feature,
                f"{each.density:.3g}",
                f"{each.count:,}",
                figure(each.max),
                figure(each.mean),
                each.label,
                score_text(each.label_precision, each.label_recall),
            )
            for each in page.features
        ),
    )
    if page.total > len(page.features):
        say(f"{len(page.features):,} of {page.total:,}; more with --limit")


def _print_tokens(tokens: Sequence[TokenFeatures]) -> None:
    print_table(("token", "text", "rows", "features that fire most on it"), _token_rows(tokens))
    if not tokens:
        say("no token of the data set has this text or begins with it")


def _token_rows(tokens: Sequence[TokenFeatures]) -> Iterator[tuple[object, ...]]:
    for each in tokens:
        firing = " ".join(str(one.feature) for one in each.features[:_OF_A_TOKEN])
        yield each.token, visible(each.text), f"{each.count:,}", firing
