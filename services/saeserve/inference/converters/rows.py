"""Messages that carry rows, and the arrays that handlers know."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from saeserve.errors import InvalidInput
from saeserve.inference.features import feature_rows, sparse_features
from saeserve.inference.handlers import Decoded, Encoded
from saeserve.inference.refusals import too_large
from saeserve.inference.rows import DenseRows, FeatureRows
from saeserve.inference.tensors import BF16, F16, F32, checked_type, dense_rows, dense_tensor
from saeserve.inference.work import Served
from saeserve.platform.grpc_server import MAX_MESSAGE_BYTES
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import tensor_pb2

RowsT = TypeVar("RowsT", DenseRows, FeatureRows)
ResponseT = TypeVar("ResponseT", bound=Message)


@dataclass(frozen=True)
class Query(Generic[RowsT]):
    """What a request asks: rows, the axes they came in, and the type of the answer."""

    model: str
    rows: RowsT
    leading: tuple[int, ...]
    dtype: tensor_pb2.DataType.ValueType
    made_by: str = ""
    """The version that made the features of a decode; empty when the caller does not say."""


def encode_query(request: pb.EncodeRequest, as_sent: bool = False) -> Query[DenseRows]:
    """Read an EncodeRequest, `as_sent` in the types of the wire. Raises InvalidInput."""
    dtype = checked_type(request.values_dtype, "values_dtype", F32, F16)
    return dense_query(request.model, request.activations, dtype, as_sent)


def reconstruct_query(request: pb.ReconstructRequest, as_sent: bool = False) -> Query[DenseRows]:
    """Read a ReconstructRequest, `as_sent` in the types of the wire. Raises InvalidInput."""
    dtype = checked_type(request.output_dtype, "output_dtype", F32, F16, BF16)
    return dense_query(request.model, request.activations, dtype, as_sent)


def decode_query(request: pb.DecodeRequest) -> Query[FeatureRows]:
    """Read a DecodeRequest. Raises InvalidInput."""
    dtype = checked_type(request.output_dtype, "output_dtype", F32, F16, BF16)
    rows = feature_rows(request.features, "features")
    leading, made_by = tuple(request.features.shape[:-1]), request.features.model
    return Query(model_name(request.model), rows, leading, dtype, made_by)


def encode_response(query: Query[DenseRows], answer: Encoded) -> pb.EncodeResponse:
    """Write an EncodeResponse. Raises InvalidInput for an answer that does not fit."""
    features = sparse_features(answer.features, query.leading, query.dtype, answer.model)
    execution = execution_info(answer.model, answer.served)
    return fitting(
        pb.EncodeResponse(
            features=features,
            execution=execution,
            rows_beyond_norm_bound=len(answer.beyond),
            beyond_norm_bound=answer.beyond.tolist(),
        ),
        answer.features.nbytes + answer.beyond.nbytes,
    )


def decode_response(query: Query[FeatureRows], answer: Decoded) -> pb.DecodeResponse:
    """Write a DecodeResponse. Raises InvalidInput for an answer that does not fit."""
    tensor = dense_tensor(answer.activations, query.leading, query.dtype, "output_dtype")
    execution = execution_info(answer.model, answer.served)
    response = pb.DecodeResponse(activations=tensor, execution=execution)
    return fitting(response, answer.activations.nbytes)


def reconstruct_response(query: Query[DenseRows], answer: Decoded) -> pb.ReconstructResponse:
    """Write a ReconstructResponse. Raises InvalidInput for an answer that does not fit."""
    tensor = dense_tensor(answer.activations, query.leading, query.dtype, "output_dtype")
    return fitting(
        pb.ReconstructResponse(
            activations=tensor,
            explained_variance=answer.explained_variance,
            rows_beyond_norm_bound=len(answer.beyond),
            beyond_norm_bound=answer.beyond.tolist(),
            execution=execution_info(answer.model, answer.served),
        ),
        answer.activations.nbytes + answer.beyond.nbytes,
    )


def dense_query(
    model: str,
    tensor: tensor_pb2.Tensor,
    dtype: tensor_pb2.DataType.ValueType,
    as_sent: bool,
) -> Query[DenseRows]:
    """Read rows of activations, `as_sent` in the types of the wire. Raises InvalidInput."""
    sent = dense_rows(tensor, "activations")
    rows = sent if as_sent else DenseRows(sent.x)
    return Query(model_name(model), rows, tuple(tensor.shape[:-1]), dtype)


def model_name(reference: str, field: str = "model") -> str:
    """The reference, if there is one. Raises InvalidInput."""
    if not reference:
        raise InvalidInput(
            "no model is named",
            code="NO_MODEL",
            field=field,
            remedy="name one: name, name@version, name@alias or models/<name>/versions/<n>",
        )
    return reference


def execution_info(model: str, served: Served) -> pb.ExecutionInfo:
    """How a request was served, as the API says it."""
    return pb.ExecutionInfo(
        resolved_model=model,
        queue_time=_duration(served.queue_seconds),
        compute_time=_duration(served.compute_seconds),
        batch_rows=served.batch_rows,
    )


def _duration(seconds: float) -> Duration:
    fraction, whole = math.modf(seconds)
    return Duration(seconds=int(whole), nanos=int(fraction * 1e9))


def fitting(response: ResponseT, size: int) -> ResponseT:
    """The response of arrays of `size` bytes. Only where that is close to the limit is the message
    measured, which protobuf does by writing it."""
    if size > MAX_MESSAGE_BYTES // 2 and response.ByteSize() > MAX_MESSAGE_BYTES:
        raise too_large()
    return response
