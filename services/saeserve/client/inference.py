"""The serving half of the SDK: encode, decode, steer …; large batches are split here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message

from saeserve.client.array_files import read_rows
from saeserve.client.arrays import ArrayInput, Rows
from saeserve.client.errors import InvalidArgumentError, translated
from saeserve.client.feature_inputs import FeatureInput, features_of
from saeserve.client.features import FloatArray, SparseFeatures, concatenate
from saeserve.client.matching import FeatureMatches, matches_value
from saeserve.client.parts import Answer, PartT, each_part, spans
from saeserve.client.reconstruction import Reconstruction, joined, reconstruction_of
from saeserve.client.retries import Limit, patiently
from saeserve.client.steering import (
    Edits,
    FeatureActivity,
    Neighbour,
    Steered,
    SteerPart,
    edit_messages,
    joined_steered,
    steer_part,
    steer_request,
    steered_of,
)
from saeserve.client.tensors import (
    WireType,
    encoded,
    from_tensor,
    to_sparse,
    to_tensor,
    wire_type,
)
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import inference_service_pb2_grpc

ResponseT = TypeVar("ResponseT")
ValueT = TypeVar("ValueT")

SPLIT_BYTES = 2**20
"""Requests above this are split: about 1 MiB moves fastest (docs/DESIGN.md, "Tensors")."""
FIRST_DECODED_ROWS = 256
"""Rows that are decoded first, whose answer says how wide the others' will be."""
_ENTRIES = SPLIT_BYTES // 8
"""Features of a request to decode: each takes 8 bytes on the wire, at most."""


class Inference:
    """Calls of InferenceService.

    Rows [..., d_in] are arrays of numpy or of anything that speaks its protocols or DLPack, torch
    tensors of any device, nested lists, or the path of a .npy or .safetensors file; float32,
    float16, bfloat16 or float64 (sent as float32, refused where that overflows). Answers are numpy
    arrays of float32. Calls are split into requests of about 1 MiB, all answered by one version of
    the model. Each may take the client's `timeout`, in which an overloaded server is asked again
    after the delay that it sends; `timeout` of a call bounds all its requests together.
    """

    def __init__(self, channel: grpc.Channel, address: str, timeout: float) -> None:
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        self._address = address
        self._timeout = timeout

    def encode(
        self,
        model: str,
        activations: ArrayInput,
        *,
        values: WireType = "f32",
        wire: WireType | None = None,
        timeout: float | None = None,
    ) -> SparseFeatures:
        """Sparse features of raw activations [..., d_in].

        `wire` is the type sent ("f16" and "bf16" halve the bytes; left out, that of the rows),
        `values` the type returned ("f32" or "f16").

        >>> features = client.inference.encode("my-sae@prod", activations)
        >>> features = client.inference.encode("my-sae", "activations.npy", wire="bf16")
        """
        given, limit = read_rows(activations), Limit(timeout, self._timeout)

        def call(version: str, part: Rows) -> Answer[SparseFeatures]:
            request = pb.EncodeRequest(
                model=version, activations=to_tensor(part, wire), values_dtype=wire_type(values)
            )
            with _located(part):
                answer = self._ask(self._stub.Encode, request, limit)
            return Answer(encoded(answer), answer.execution.resolved_model)

        return concatenate(_rowwise(call, model, given.flat()), given.shape[:-1])

    def decode(
        self, model: str, features: FeatureInput, *, timeout: float | None = None
    ) -> FloatArray:
        """Reconstructions [..., d_out] of features, in raw activation space.

        `features` are what encode gave, dense features [..., d_sae], a CSR matrix of scipy or
        torch, or the path of a file that holds such. The server refuses features that another
        model, or another version of it, made (`features.model`).

        >>> dense = features.to_dense()
        >>> dense[..., 1234] = 10.0
        >>> steered = client.inference.decode("my-sae@prod", dense)
        """
        given, limit = features_of(features), Limit(timeout, self._timeout)

        def call(version: str, part: SparseFeatures) -> Answer[FloatArray]:
            request = pb.DecodeRequest(model=version, features=to_sparse(part))
            answer = self._ask(self._stub.Decode, request, limit)
            return Answer(from_tensor(answer.activations), answer.execution.resolved_model)

        first = given.part(*next(spans(given.offsets, 0, FIRST_DECODED_ROWS, _ENTRIES), (0, 0)))
        answers = each_part(call, model, first, partial(_others, given, first.rows))
        y = np.concatenate(answers)
        return y.reshape(*given.shape[:-1], y.shape[-1])

    def reconstruct(
        self,
        model: str,
        activations: ArrayInput,
        *,
        wire: WireType | None = None,
        timeout: float | None = None,
    ) -> Reconstruction:
        """Encode and decode in one call: [..., d_in] to [..., d_out], with `beyond_norm_bound` as
        in encode.

        >>> error = activations - client.inference.reconstruct("my-sae@prod", activations)
        """
        given, limit = read_rows(activations), Limit(timeout, self._timeout)

        def call(version: str, part: Rows) -> Answer[Reconstruction]:
            request = pb.ReconstructRequest(model=version, activations=to_tensor(part, wire))
            with _located(part):
                answer = self._ask(self._stub.Reconstruct, request, limit)
            made = reconstruction_of(from_tensor(answer.activations), answer)
            return Answer(made, made.model)

        return joined(_rowwise(call, model, given.flat()), given.shape[:-1])

    def steer(
        self,
        model: str,
        activations: ArrayInput,
        edits: Edits,
        *,
        rows: Sequence[int] | None = None,
        target: ArrayInput | None = None,
        wire: WireType | None = None,
        timeout: float | None = None,
    ) -> Steered:
        """Raw activations [..., d_in] moved by edits of their features; what the dictionary does
        not explain of them is kept, and rows of which no activation changes come back as they are.

        `edits` each name a feature and one of add, set, scale, clamp and ablate. `rows` are the
        numbers of the rows to steer, with the leading axes flattened; left out, all. A transcoder
        moves rows of the site that it writes: give them as `target` [..., d_out].

        >>> edits = [{"feature": 12, "add": 8.0}, {"feature": 7, "scale": 0.0}]
        >>> moved = client.inference.steer("my-sae@prod", activations, edits)
        >>> moved.activations, moved.rows_by_edit
        """
        given, limit = read_rows(activations), Limit(timeout, self._timeout)
        messages = edit_messages(edits)
        goal = None if target is None else read_rows(target, "target")

        def call(version: str, part: SteerPart) -> Answer[Steered]:
            request = steer_request(version, part, messages, wire)
            with _located(part.inputs):
                answer = self._ask(self._stub.Steer, request, limit)
            made = steered_of(from_tensor(answer.activations), answer)
            return Answer(made, made.model)

        whole = steer_part(given, goal, rows)
        width = max(whole.inputs.shape[1], 0 if whole.target is None else whole.target.shape[1])
        return joined_steered(_in_parts(call, model, whole, width), given.shape[:-1])

    def neighbours(
        self,
        model: str,
        features: Sequence[int],
        *,
        count: int = 10,
        timeout: float | None = None,
    ) -> Mapping[int, tuple[Neighbour, ...]]:
        """For each feature, those whose decoder rows have the largest cosine to its own; none for
        a dead one.

        >>> near = client.inference.neighbours("my-sae@prod", [12, 7], count=5)
        >>> near[12][0].feature, near[12][0].cosine
        """
        request = pb.NeighboursRequest(model=model, features=features, count=count)
        answer = self._ask(self._stub.Neighbours, request, Limit(timeout, self._timeout))
        return {
            each.feature: tuple(map(Neighbour, each.neighbours, each.cosines))
            for each in answer.features
        }

    def match_features(
        self, model: str, other: str, *, timeout: float | None = None
    ) -> FeatureMatches:
        """For features of `model`, the feature of `other` whose decoder row has the largest cosine;
        of wide models, for some that are chosen by a hash. The first call takes seconds.

        >>> found = client.inference.match_features("my-sae@2", "my-sae@1")
        >>> found.features[found.mutual], found.matches[found.mutual], found.share(0.7)
        """
        request = pb.MatchFeaturesRequest(model=model, other=other)
        answer = self._ask(self._stub.MatchFeatures, request, Limit(timeout, self._timeout))
        return matches_value(answer)

    def top_features(
        self,
        model: str,
        activations: ArrayInput,
        *,
        count: int = 10,
        order_by: Literal["max", "mean", "rows"] = "max",
        wire: WireType | None = None,
        timeout: float | None = None,
    ) -> tuple[FeatureActivity, ...]:
        """The features that are most active in raw activations [..., d_in], which go in one request
        (at most 64 MiB).

        >>> for each in client.inference.top_features("my-sae@prod", activations, count=3):
        ...     print(each.feature, each.max, each.rows)
        """
        given = read_rows(activations).flat()
        request = pb.TopFeaturesRequest(
            model=model, activations=to_tensor(given, wire), count=count, order_by=order_by
        )
        with _located(given):
            answer = self._ask(self._stub.TopFeatures, request, Limit(timeout, self._timeout))
        return tuple(
            FeatureActivity(each.feature, each.max, each.mean, each.rows)
            for each in answer.features
        )

    def _ask(self, method: Callable[..., ResponseT], request: Message, limit: Limit) -> ResponseT:
        def send(seconds: float) -> ResponseT:
            with translated(self._address):
                return method(request, timeout=seconds)

        return patiently(send, limit.left())


@contextmanager
def _located(part: Rows) -> Generator[None]:
    """Name rows that the server refuses by their number in the whole batch."""
    try:
        yield
    except InvalidArgumentError as error:
        if error.reason == "NOT_FINITE":
            part.refuse_not_finite()
        raise


def _rowwise(call: Callable[[str, Rows], Answer[ValueT]], model: str, rows: Rows) -> list[ValueT]:
    """`call` on parts of [rows, d] that travel well."""
    return _in_parts(call, model, rows, rows.shape[1])


def _in_parts(
    call: Callable[[str, PartT], Answer[ValueT]], model: str, rows: PartT, width: int
) -> list[ValueT]:
    """`call` on parts of rows of this width that travel well."""
    step = max(1, SPLIT_BYTES // (4 * width))

    def others(_answer: ValueT) -> Iterator[PartT]:
        for start in range(step, rows.rows, step):
            yield rows.part(start, min(start + step, rows.rows))

    return each_part(call, model, rows.part(0, min(step, rows.rows)), others)


def _others(features: SparseFeatures, start: int, answer: FloatArray) -> Iterator[SparseFeatures]:
    """Parts from row `start` on whose answers, as wide as `answer`, travel well."""
    step = max(1, SPLIT_BYTES // (4 * answer.shape[-1]))
    for span in spans(features.offsets, start, step, _ENTRIES):
        yield features.part(*span)
