"""What a job would take: parameters, bytes of memory and disk, steps. Plain arithmetic.

An estimate for admission and for people, not a promise: it counts the tensors that grow with the
spec and leaves out the interpreter, libraries and allocator slack (some hundred MB).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from saeserve.core.specs.base import Spec
from saeserve.core.specs.training import TrainSpec

_FLOAT = 4
_STATE_BYTES = 4 * _FLOAT
"""Bytes a parameter while training: float32 weight, gradient and two Adam moments."""
_CHECKPOINT_BYTES = 3 * _FLOAT
"""Bytes a parameter in a checkpoint: weight and two moments."""
_CHECKPOINTS_AT_ONCE = 3
"""Two are kept while the next one is written."""
_EXPORTS_AT_ONCE = 2
"""The export's scratch folder and the published version."""
_DENSE_ACTIVATIONS = {
    "topk": 3,
    "batchtopk": 3,
    "matryoshka": 3,
    "jumprelu": 7,
    "relu": 4,
    "gated": 8,
}
"""[rows, d_sae] float32 tensors alive at the peak of a step, from the growth of a CPU process
between micro-batches of 512 and 4096 rows (d_in 256, d_sae 8192, with dead latents where AuxK is
on by default): 2.7, 2.6, 2.8 for the TopK family, 6.4 for JumpReLU, rounded up."""
_ROW_TENSORS = 4
"""[rows, d_in] float32 tensors alive at the peak: rows, reconstruction, error, its gradient."""

_WITHOUT_INPUT_BIAS = ("jumprelu", "relu")


class Plan(Spec):
    """What a job would take, and what is worth knowing before it runs. Sizes in bytes."""

    parameters: int = Field(default=0, ge=0)
    memory_bytes: int = Field(default=0, ge=0)
    disk_bytes: int = Field(default=0, ge=0)
    steps: int = Field(default=0, ge=0)
    notes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    """Names of the models that a train job publishes."""


class TrainingData(Spec):
    """What the plan needs to know of a READY data set's sources."""

    d: int = Field(ge=1)
    """Width of the input, all sources together."""
    d_target: int = Field(default=0, ge=0)
    """Width of the target where that is another source, else 0."""
    train_rows: int = Field(ge=0)
    heldout_rows: int = Field(ge=0)
    shard_rows: int = Field(ge=1)


def parameter_count(
    architecture: str, d_in: int, d_sae: int, d_target: int = 0, *, skip: bool = False
) -> int:
    """Parameters of an autoencoder: W_enc, W_dec, b_dec, and vectors over latents: b_enc, one
    threshold for JumpReLU, two biases and a scale for gated.

    With a `d_target` those of a transcoder: a bias for the input where the architecture subtracts
    one, and W_skip for a skip connection.
    """
    d_out = d_target or d_in
    vectors = {"jumprelu": 2, "gated": 3}.get(architecture, 1)
    own_bias = d_in if d_target and architecture not in _WITHOUT_INPUT_BIAS else 0
    return d_sae * (d_in + d_out + vectors) + d_out + own_bias + d_in * d_out * skip


def plan_training(asked: TrainSpec, resolved: TrainSpec, data: TrainingData | None) -> Plan:
    """The plan of a train job; without `data` (its data set is not READY yet) only the steps."""
    if data is None:
        note = "memory and disk are known once the data set is READY, for they depend on its width"
        return Plan(steps=resolved.steps, notes=(note, *_spec_notes(asked, resolved)))
    parameters = parameter_count(
        resolved.architecture.name,
        data.d,
        resolved.d_sae,
        data.d_target,
        skip=resolved.skip_connection,
    )
    published = parameters * _FLOAT * _EXPORTS_AT_ONCE
    return Plan(
        parameters=parameters,
        memory_bytes=parameters * _STATE_BYTES
        + _step_bytes(resolved, data)
        + _window(resolved, data),
        disk_bytes=parameters * _CHECKPOINT_BYTES * _CHECKPOINTS_AT_ONCE + published,
        steps=resolved.steps,
        notes=(*_spec_notes(asked, resolved), *_data_notes(resolved, data)),
    )


def plan_sweep(asked: TrainSpec, resolved: Sequence[TrainSpec], data: TrainingData) -> Plan:
    """The plan of a sweep: weights, moments and files of every member side by side; one window of
    rows and one batch for all; gradients and temporaries of one member at a time."""
    plans = [plan_training(asked, member, data) for member in resolved]
    steps = [
        plan.parameters * _FLOAT + _step_bytes(member, data)
        for plan, member in zip(plans, resolved, strict=True)
    ]
    parameters = sum(plan.parameters for plan in plans)
    batch = asked.batch_size * (data.d + data.d_target) * _FLOAT
    return Plan(
        parameters=parameters,
        memory_bytes=parameters * (_STATE_BYTES - _FLOAT)
        + max(steps)
        + batch
        + _window(resolved[0], data),
        disk_bytes=sum(plan.disk_bytes for plan in plans),
        steps=plans[0].steps,
        notes=tuple(dict.fromkeys(note for plan in plans for note in plan.notes)),
    )


def _step_bytes(spec: TrainSpec, data: TrainingData) -> int:
    rows = spec.micro_batch_size or spec.batch_size
    dense = _DENSE_ACTIVATIONS[spec.architecture.name] * spec.d_sae
    return rows * (dense + _ROW_TENSORS * (data.d + data.d_target)) * _FLOAT


def _window(spec: TrainSpec, data: TrainingData) -> int:
    """Rows held to be shuffled, and as many that are read ahead, in float32."""
    rows = min(2 * spec.preprocess.window_shards * data.shard_rows, data.train_rows)
    return rows * (data.d + data.d_target) * _FLOAT


def _spec_notes(asked: TrainSpec, resolved: TrainSpec) -> list[str]:
    notes: list[str] = []
    if resolved.dead_window_tokens < asked.dead_window_tokens:
        notes.append(
            f"dead_window_tokens is lowered from {asked.dead_window_tokens} to "
            f"{resolved.dead_window_tokens}, a tenth of the run"
        )
    left = asked.tokens % asked.batch_size
    if left:
        notes.append(f"the last {left} tokens make no whole batch and are not trained on")
    return notes


def _data_notes(spec: TrainSpec, data: TrainingData) -> list[str]:
    notes: list[str] = []
    if data.train_rows and spec.tokens > data.train_rows:
        epochs = spec.tokens / data.train_rows
        notes.append(f"{data.train_rows} training rows are gone through {epochs:.1f} times")
    if spec.eval_rows > data.heldout_rows:
        notes.append(
            f"eval_rows is {spec.eval_rows} and {data.heldout_rows} rows are held out; "
            "the closing evaluation takes those"
        )
    if spec.d_sae < data.d:
        notes.append(f"d_sae = {spec.d_sae} is less than d_in = {data.d}: not overcomplete")
    return notes
