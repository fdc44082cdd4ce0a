"""Messages that look at features, and the values that handlers know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from google.protobuf.message import Message

from saeserve.core.export.looking import Nearest
from saeserve.core.specs.steering import MAX_EDITS, EditsSpec
from saeserve.inference.converters.rows import (
    dense_query,
    execution_info,
    fitting,
    model_name,
)
from saeserve.inference.feature_handlers import (
    MOST_NEIGHBOURS,
    Order,
    Steered,
    Steering,
    TopFound,
)
from saeserve.inference.refusals import bad_count, bad_order, checked_count
from saeserve.inference.rows import DenseRows
from saeserve.inference.tensors import BF16, F16, F32, checked_type, dense_rows, dense_tensor
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import tensor_pb2

DEFAULT_COUNT = 10
MOST_FEATURES = 256
MOST_ACTIVE = 4096
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True)
class SteerQuery:
    """What a SteerRequest asks."""

    model: str
    steering: Steering
    leading: tuple[int, ...]
    dtype: tensor_pb2.DataType.ValueType


@dataclass(frozen=True)
class NeighboursQuery:
    """What a NeighboursRequest asks."""

    model: str
    features: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class TopQuery:
    """What a TopFeaturesRequest asks."""

    model: str
    rows: DenseRows
    count: int
    order: Order


def steer_query(request: pb.SteerRequest, as_sent: bool = False) -> SteerQuery:
    """Read a SteerRequest, `as_sent` in the types of the wire. Raises InvalidInput, and SpecError
    for edits that are wrong."""
    dtype = checked_type(request.output_dtype, "output_dtype", F32, F16, BF16)
    if len(request.edits) > MAX_EDITS:
        what = f"{len(request.edits)} edits are given"
        raise bad_count(what, "edits", f"send at most {MAX_EDITS}")
    edits = EditsSpec.parse({"edits": [_plain(edit) for edit in request.edits]}, "")
    query = dense_query(request.model, request.activations, dtype, as_sent)
    target = dense_rows(request.target, "target") if request.HasField("target") else None
    chosen = np.array(request.rows.rows, np.int64) if request.HasField("rows") else None
    steering = Steering(query.rows, edits.checked("edits").edits, target, chosen)
    return SteerQuery(query.model, steering, query.leading, dtype)


def steer_response(query: SteerQuery, answer: Steered) -> pb.SteerResponse:
    """Write a SteerResponse. Raises InvalidInput for an answer that does not fit."""
    tensor = dense_tensor(answer.activations, query.leading, query.dtype, "output_dtype")
    return fitting(
        pb.SteerResponse(
            activations=tensor,
            rows_by_edit=answer.rows_by_edit,
            rows_changed=answer.rows_changed,
            execution=execution_info(answer.model, answer.served),
            rows_beyond_norm_bound=len(answer.beyond),
            beyond_norm_bound=answer.beyond.tolist(),
        ),
        answer.activations.nbytes + answer.beyond.nbytes,
    )


def neighbours_query(request: pb.NeighboursRequest) -> NeighboursQuery:
    """Read a NeighboursRequest. Raises InvalidInput."""
    asked = tuple(request.features)
    if not 1 <= len(asked) <= MOST_FEATURES:
        what = f"{len(asked)} features are asked for"
        raise bad_count(what, "features", f"name 1 to {MOST_FEATURES} features")
    count = checked_count(request.count, MOST_NEIGHBOURS, "count", DEFAULT_COUNT)
    return NeighboursQuery(model_name(request.model), asked, count)


def neighbours_response(
    query: NeighboursQuery, resource: str, found: list[Nearest]
) -> pb.NeighboursResponse:
    """Write a NeighboursResponse."""
    features = [
        pb.FeatureNeighbours(feature=feature, neighbours=each.features, cosines=each.cosines)
        for feature, each in zip(query.features, found, strict=True)
    ]
    return pb.NeighboursResponse(features=features, resolved_model=resource)


def top_query(request: pb.TopFeaturesRequest, as_sent: bool = False) -> TopQuery:
    """Read a TopFeaturesRequest, `as_sent` in the types of the wire. Raises InvalidInput."""
    order = request.order_by or "max"
    if order not in ORDERS:
        raise bad_order(order, ORDERS)
    count = checked_count(request.count, MOST_ACTIVE, "count", DEFAULT_COUNT)
    query = dense_query(request.model, request.activations, F32, as_sent)
    return TopQuery(query.model, query.rows, count, order)


def top_response(query: TopQuery, answer: TopFound) -> pb.TopFeaturesResponse:
    """Write a TopFeaturesResponse. Raises InvalidInput for an answer that does not fit."""
    return fitting(
        pb.TopFeaturesResponse(
            features=[
                pb.FeatureActivity(
                    feature=each.feature, max=each.max, mean=each.mean, rows=each.rows
                )
                for each in answer.features
            ],
            rows=query.rows.rows,
            execution=execution_info(answer.model, answer.served),
            rows_beyond_norm_bound=len(answer.beyond),
            beyond_norm_bound=answer.beyond.tolist(),
        ),
        answer.beyond.nbytes,
    )


def _plain(message: Message) -> dict[str, Any]:
    """The fields that are set."""
    return {
        field.name: _plain(value) if isinstance(value, Message) else value
        for field, value in message.ListFields()
    }
