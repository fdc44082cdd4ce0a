"""Requests of FeatureService as handlers know them, checked."""

from __future__ import annotations

import json
import math
from typing import get_args

from saeserve.core.features.values import FeatureFilter, Group, SortKey
from saeserve.errors import InvalidInput
from saeserve.inference.bundle_handlers import Asked
from saeserve.inference.bundle_reads import (
    MOST_CONTEXTS,
    MOST_FEATURES,
    MOST_PAGE,
    MOST_TOKENS,
    ContextsQuery,
    FeatureQuery,
    ListQuery,
    TokenQuery,
)
from saeserve.inference.converters.rows import model_name
from saeserve.inference.refusals import bad_count, bad_order, checked_count
from saeserve.platform.pages import other_listing, page_place, page_token
from saeserve.v1 import feature_service_pb2 as pb

MOST_TEXT = 200
DEFAULT_PAGE, DEFAULT_CONTEXTS, DEFAULT_TOKENS = 50, 10, 20
_MOST_SKIPPED = 2**40
_ORDERS: tuple[SortKey, ...] = ("density", "max", "feature")
_GROUPS: tuple[Group, ...] = get_args(Group)


def describe_query(request: pb.DescribeBundleRequest) -> Asked:
    """Read a DescribeBundleRequest. Raises InvalidInput."""
    return Asked(model_name(request.model), request.job)


def list_query(request: pb.ListFeaturesRequest) -> ListQuery:
    """Read a ListFeaturesRequest; a page token says which bundle its page is of, and where it
    begins. Raises InvalidInput."""
    order = request.order_by or _ORDERS[0]
    if order not in _ORDERS:
        raise bad_order(order, _ORDERS)
    where, scope = _filter(request.filter), _scope(request, order)
    asked, offset = Asked(model_name(request.model), request.job), 0
    if request.page_token:
        model, job, text = page_place(request.page_token, scope, 3)
        asked, offset = Asked(model, job), _offset(text)
    return ListQuery(
        asked=asked,
        order=order,
        ascending=request.ascending,
        where=where,
        offset=offset + _skipped(request.skip),
        size=checked_count(request.page_size, MOST_PAGE, "page_size", DEFAULT_PAGE),
        scope=scope,
        continued=bool(request.page_token),
    )


def next_page_token(query: ListQuery, resource: str, job: str, offset: int) -> str:
    """The token of the page that begins at `offset` of the bundle that `job` made."""
    return page_token(query.scope, resource, job, str(offset))


def feature_query(request: pb.GetFeatureRequest) -> FeatureQuery:
    """Read a GetFeatureRequest. Raises InvalidInput."""
    return FeatureQuery(Asked(model_name(request.model), request.job), request.feature)


def contexts_query(request: pb.GetContextsRequest) -> ContextsQuery:
    """Read a GetContextsRequest. Raises InvalidInput."""
    features = tuple(request.features)
    if not 1 <= len(features) <= MOST_FEATURES:
        what = f"contexts of {len(features)} features are asked for"
        raise bad_count(what, "features", f"name 1 to {MOST_FEATURES} features")
    group = request.group or _GROUPS[0]
    if group not in _GROUPS:
        raise InvalidInput(
            f"contexts have no group {group!r}",
            code="BAD_GROUP",
            field="group",
            remedy=f"choose one of {', '.join(_GROUPS)}",
        )
    count = checked_count(request.count, MOST_CONTEXTS, "count", DEFAULT_CONTEXTS)
    return ContextsQuery(Asked(model_name(request.model), request.job), features, group, count)


def token_query(request: pb.SearchTokenRequest) -> TokenQuery:
    """Read a SearchTokenRequest. Raises InvalidInput."""
    _check_text(request.text, "text")
    if not request.text.strip():
        raise _bad_filter("no text is given", "text", "give a token, or the beginning of one")
    count = checked_count(request.count, MOST_TOKENS, "count", DEFAULT_TOKENS)
    return TokenQuery(Asked(model_name(request.model), request.job), request.text, count)


def _filter(message: pb.FeatureFilter) -> FeatureFilter:
    _check_text(message.label, "filter.label")
    if len(message.features) > MOST_PAGE:
        what = f"{len(message.features)} features are named"
        raise bad_count(what, "filter.features", f"name at most {MOST_PAGE}")
    least, most = message.HasField("min_density"), message.HasField("max_density")
    return FeatureFilter(
        min_density=_number(message.min_density, "min_density") if least else None,
        max_density=_number(message.max_density, "max_density") if most else None,
        min_max=_number(message.min_max, "min_max") if message.HasField("min_max") else None,
        dead=message.dead if message.HasField("dead") else None,
        label=message.label or None,
        features=tuple(message.features) or None,
    )


def _number(value: float, name: str) -> float:
    """The bound `name`. Raises InvalidInput for NaN, with which nothing compares."""
    if math.isnan(value):
        field = f"filter.{name}"
        raise _bad_filter(f"{name} is not a number", field, "give a number, or leave it unset")
    return value


def _scope(request: pb.ListFeaturesRequest, order: str) -> str:
    """The conditions of a listing as a text; `repr` of floats is exact."""
    where = request.filter.SerializeToString(deterministic=True).hex()
    return json.dumps([request.model, request.job, order, request.ascending, where])


def _offset(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 15):
        raise other_listing()
    return int(text)


def _skipped(skip: int) -> int:
    if not 0 <= skip < _MOST_SKIPPED:
        raise bad_count(f"{skip} features cannot be passed over", "skip", "give 0 or more")
    return skip


def _check_text(text: str, field: str) -> None:
    if len(text) > MOST_TEXT:
        what = f"{field} has {len(text)} characters"
        raise _bad_filter(what, field, f"give at most {MOST_TEXT}")


def _bad_filter(message: str, field: str, remedy: str) -> InvalidInput:
    return InvalidInput(message, code="BAD_FILTER", field=field, remedy=remedy)
