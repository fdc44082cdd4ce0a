"""Edits of features as a user writes them, the rows that are sent with them, and the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from google.protobuf.json_format import ParseDict, ParseError

from saeserve.client.arrays import Rows
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.features import FloatArray, IntArray
from saeserve.client.refusals import bad_spec
from saeserve.client.spec_fields import fitted
from saeserve.client.tensors import WireType, to_tensor
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import spec_pb2

Edits = Sequence[Mapping[str, Any]]
"""Each names a feature and one action: {"feature": 12, "add": 8.0}, "set", "scale",
"clamp": {"low": 0, "high": 2}, or "ablate": True. They are applied in order."""


@dataclass(frozen=True)
class Steered:
    """Rows after edits of their features."""

    activations: FloatArray
    rows_by_edit: tuple[int, ...]
    """For each edit, in how many rows it changed the activation that it found."""
    rows_changed: int
    """Rows of which some activation changed; all others are as they were."""
    model: str
    """models/<name>/versions/<n> that answered."""
    beyond_norm_bound: IntArray
    """Numbers of the rows of which the model knows little; they were steered too."""


@dataclass(frozen=True)
class Neighbour:
    """A feature, and the cosine of its decoder row to that of another."""

    feature: int
    cosine: float


@dataclass(frozen=True)
class FeatureActivity:
    """How a feature fires in some rows: its largest activation by magnitude, the mean magnitude
    over all rows, and in how many rows it fires."""

    feature: int
    max: float
    mean: float
    rows: int


def edit_messages(edits: Edits) -> list[spec_pb2.EditSpec]:
    """The edits as messages. Raises InvalidArgumentError naming what does not fit the API."""
    try:
        data = fitted({"edits": [dict(edit) for edit in edits]}, pb.SteerRequest.DESCRIPTOR)
        return list(ParseDict(data, pb.SteerRequest()).edits)
    except (ParseError, TypeError, ValueError) as error:
        raise bad_spec(
            f"the edits do not fit the API: {error}",
            field="edits",
            remedy='write each as {"feature": 12, "add": 8.0}, or with set, scale, clamp or ablate',
        ) from error


@dataclass(frozen=True)
class SteerPart:
    """Rows to be sent together, and which of them are to be steered."""

    inputs: Rows
    target: Rows | None
    chosen: IntArray | None
    """Their numbers among these rows; None for all."""

    @property
    def rows(self) -> int:
        """How many are sent."""
        return self.inputs.rows

    def part(self, start: int, stop: int) -> Self:
        """Rows start .. stop, and those of the numbers that are among them."""
        chosen = self.chosen
        if chosen is not None:
            chosen = chosen[(chosen >= start) & (chosen < stop)] - start
        target = None if self.target is None else self.target.part(start, stop)
        return type(self)(self.inputs.part(start, stop), target, chosen)


def steer_part(inputs: Rows, target: Rows | None, rows: Sequence[int] | None) -> SteerPart:
    """All rows of a call. Raises InvalidArgumentError where what is given does not fit together."""
    flat = inputs.flat()
    if target is not None and target.shape[:-1] != inputs.shape[:-1]:
        raise InvalidArgumentError(
            f"target has the axes {list(target.shape[:-1])} before its last one, activations have "
            f"{list(inputs.shape[:-1])}",
            reason="ROWS_DIFFER",
            field="target",
            remedy="give one row of the target for each row of the input",
        )
    chosen = None if rows is None else np.asarray(rows, np.int64).reshape(-1)
    known = np.zeros(0, np.int64) if chosen is None else chosen
    outside = known[(known < 0) | (known >= flat.rows)]
    if len(outside):
        raise InvalidArgumentError(
            f"there is no row {outside[0]} among {flat.rows}",
            reason="NO_SUCH_ROW",
            field="rows",
            remedy="number the rows from 0, with the leading axes flattened",
        )
    return SteerPart(flat, None if target is None else target.flat(), chosen)


def steer_request(
    model: str, part: SteerPart, edits: Sequence[spec_pb2.EditSpec], wire: WireType | None
) -> pb.SteerRequest:
    """The request for a part of the rows."""
    request = pb.SteerRequest(model=model, activations=to_tensor(part.inputs, wire), edits=edits)
    if part.target is not None:
        request.target.CopyFrom(to_tensor(part.target, wire))
    if part.chosen is not None:
        request.rows.CopyFrom(pb.RowSelection(rows=part.chosen.tolist()))
    return request


def steered_of(activations: FloatArray, answer: pb.SteerResponse) -> Steered:
    """One answer off the wire."""
    return Steered(
        activations,
        tuple(answer.rows_by_edit),
        answer.rows_changed,
        answer.execution.resolved_model,
        np.array(answer.beyond_norm_bound, np.int64),
    )


def joined_steered(parts: Sequence[Steered], leading: tuple[int, ...]) -> Steered:
    """The rows of all parts in order, as one array with `leading` axes, and the sums of counts."""
    firsts = np.cumsum([0, *(len(part.activations) for part in parts)])
    whole = np.concatenate([part.activations for part in parts])
    beyond = [first + part.beyond_norm_bound for first, part in zip(firsts, parts, strict=False)]
    return Steered(
        whole.reshape(*leading, whole.shape[-1]),
        tuple(map(sum, zip(*(part.rows_by_edit for part in parts), strict=True))),
        sum(part.rows_changed for part in parts),
        parts[0].model,
        np.concatenate(beyond).astype(np.int64),
    )
