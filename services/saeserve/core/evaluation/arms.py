"""Nats of a splice, summed by sequence and position, and what is measured of them.

Shape suffixes: P predicted tokens of a batch, S sequences, T parts of the positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saeserve.core.evaluation.bootstrap import Sample

Replace = Callable[[Tensor], Tensor]
"""From the model's columns [N, d_in] at all positions but BOS (a transcoder's [N, d_in + d_out],
its target after its input) to the rows [N, d_out] that stand in for what is written."""
Values = NDArray[np.float64]

STARTS = (1, 8, 32, 128)
"""Where the parts of the positions begin; position 1 is predicted from position 0 alone."""
STRATA = ("positions 1-7", "positions 8-31", "positions 32-127", "positions 128-")


class Nats(NamedTuple):
    """What each predicted token costs, float32 [P], on the CPU."""

    ce_P: Tensor
    """Cross-entropy."""
    kl_P: Tensor
    """KL(clean || this pass) of the distributions of the next token."""


@dataclass(frozen=True)
class Begun:
    """A batch of sequences whose clean pass was made; all tensors are [P], on the CPU."""

    clean_P: Tensor
    """Cross-entropy of the clean pass in nats of every token but a sequence's first."""
    sequence_P: Tensor
    """Each predicted token's sequence in the batch, int64, from 0 on."""
    position_P: Tensor
    """Each predicted token's place in its sequence, int64, from 1 on."""
    run: Callable[[Replace], Nats]
    """A pass with the rows of what is written replaced."""


@dataclass(frozen=True)
class ArmTable:
    """Sums of one quantity, a row [T] for each sequence."""

    rows: list[list[float]] = field(default_factory=list[list[float]])

    def add(self, begun: Begun, values_P: Tensor) -> None:
        """Take in a batch, by which all tables get equally many rows."""
        self.rows.extend(_by_part(begun, values_P.double().numpy()).tolist())

    def values(self) -> Values:
        """[S, T]."""
        return np.array(self.rows, np.float64).reshape(-1, len(STARTS))


def _by_part(begun: Begun, values_P: Values) -> Values:
    sequences = int(begun.sequence_P.max()) + 1 if len(begun.sequence_P) else 0
    part_P = np.searchsorted(STARTS, begun.position_P.numpy(), side="right") - 1
    flat_P = begun.sequence_P.numpy() * len(STARTS) + part_P
    sums = np.bincount(flat_P, values_P, minlength=sequences * len(STARTS))
    return sums.astype(np.float64).reshape(sequences, len(STARTS))


def sample(tables: Mapping[str, ArmTable], part: int | None) -> Sample:
    """Sums by sequence of one part of the positions, or of all."""
    columns = {name: table.values() for name, table in tables.items()}
    return Sample(
        {
            name: values_ST.sum(axis=1) if part is None else values_ST[:, part]
            for name, values_ST in columns.items()
        }
    )
