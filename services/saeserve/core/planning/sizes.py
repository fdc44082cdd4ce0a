"""Sizes that plans are made of: the data's, and those of the parameters."""

from __future__ import annotations

from math import prod

from pydantic import Field

from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.formats.train_sources import Layout
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.base import Spec
from saeserve.core.specs.training import TrainSpec

VALUE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
"""Bytes of a value, by the types that data sets are stored in."""

Shapes = dict[str, tuple[int, ...]]


class TrainingData(Spec):
    """What the plan needs to know of a READY data set's sources."""

    d: int = Field(ge=1)
    """Width of the input, all sources together."""
    d_target: int = Field(default=0, ge=0)
    """Width of the target where that is another source, else 0."""
    train_rows: int = Field(ge=0)
    heldout_rows: int = Field(ge=0)
    shard_rows: int = Field(ge=1)
    value_bytes: int = Field(default=4, ge=1)
    """Bytes of a stored value."""

    @property
    def width(self) -> int:
        """Columns of a row as it is read."""
        return self.d + self.d_target

    @property
    def d_out(self) -> int:
        """Width of what is reconstructed."""
        return self.d_target or self.d


def training_data(layout: Layout, manifest: DatasetManifest) -> TrainingData:
    """Size of the data of the sources that a run reads."""
    return TrainingData(
        d=layout.d_in,
        d_target=layout.d_out if layout.inputs != layout.targets else 0,
        train_rows=manifest.rows - manifest.heldout_rows,
        heldout_rows=manifest.heldout_rows,
        shard_rows=max(shard.rows for shard in manifest.shards),
        value_bytes=VALUE_BYTES[manifest.dtype],
    )


def parameter_shapes(
    architecture: str, d_in: int, d_sae: int, d_target: int = 0, *, skip: bool = False
) -> Shapes:
    """The parameters by name: W_enc, W_dec, b_dec, and the vectors over latents that the
    architecture's spec names.

    With a `d_target` those of a transcoder: a bias for the input where the architecture subtracts
    one, and W_skip for a skip connection.
    """
    facts, d_out = ARCHITECTURE_SPECS[architecture], d_target or d_in
    shapes: Shapes = {"W_enc": (d_sae, d_in), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    shapes |= {name: (d_sae,) for name in facts.latent_vectors}
    if d_target and facts.has_input_bias:
        shapes["b_pre"] = (d_in,)
    if skip:
        shapes["W_skip"] = (d_out, d_in)
    return shapes


def shapes_of(spec: TrainSpec, data: TrainingData) -> Shapes:
    """`parameter_shapes` of a run."""
    return parameter_shapes(
        spec.architecture.name, data.d, spec.d_sae, data.d_target, skip=spec.skip_connection
    )


def parameter_count(
    architecture: str, d_in: int, d_sae: int, d_target: int = 0, *, skip: bool = False
) -> int:
    """How many numbers `parameter_shapes` holds."""
    return sum(map(prod, parameter_shapes(architecture, d_in, d_sae, d_target, skip=skip).values()))


def parameters_of(spec: TrainSpec, data: TrainingData) -> int:
    """`parameter_count` of a run."""
    return sum(map(prod, shapes_of(spec, data).values()))


def micro_batch_of(spec: TrainSpec) -> int:
    """Rows that are worked on at a time."""
    return min(spec.micro_batch_size or spec.batch_size, spec.batch_size)
