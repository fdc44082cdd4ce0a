"""Which tensors a training job holds in which moment: the rows of `footprint`.

To correct a plan, correct its row: `make bench-memory` compares the figure with the peak that the
kernel counts. Rows that a step of one architecture adds are in `_dense_step` and `_sparse_step`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from saeserve.core.specs.architectures import AuxKSpec, BatchTopKSpec, JumpReluSpec, TopKSpec
from saeserve.core.specs.footprint import (
    ALWAYS,
    STEP,
    TRAINED,
    Footprint,
    Held,
    Moment,
    Part,
)
from saeserve.core.specs.sizes import Shapes, TrainingData, micro_batch_of, parameter_shapes
from saeserve.core.specs.training import TrainSpec

BASE_BYTES = 320 * 2**20
"""Resident bytes of a job process that has imported torch, numba and the trainer and computed a
little: 310 MiB measured (torch 2.13 for CPU on Linux), of which 88 MiB are mapped libraries."""
SLACK_BYTES = 64 * 2**20
"""What the allocator keeps: glibc gives blocks above its threshold (at most 32 MiB) back at once
and holds smaller ones back, 20 to 80 MiB in the runs measured."""
CONTEXT_BYTES = 512 * 2**20
"""An accelerator's context and libraries: the customary size, not measured here."""

_SAMPLE_ROWS = 32_768
_QUANTILE_BLOCK = 1_024
_L0_ROWS = 2_048
_FOLD_ELEMENTS = 2**23
_EVALUATION_BYTES = 64 * 2**20
_EVALUATION_ROWS = 2_048
"""As `architectures.topk`, `architectures.jumprelu`, `training.starting`, `export.fold`,
`ops.sparse` and the runner have them; `tests/unit/core` holds them equal."""

_DENSE_ACTIVATIONS = {"jumprelu": 7, "relu": 4, "gated": 7}
"""[rows, d_sae] float32 tensors alive in the backward pass of the losses that are differentiated
densely. JumpReLU: h, f, c f n, its tanh, ReLU(theta - h), and the gradients of f and h. ReLU: h, f
and their gradients. Gated: w x, both pre-activations, f, ReLU(pi) and two gradients. Measured with
d_in 576, d_sae 20480, 2048 rows, less gradients and slack: 6.7, 3.8 and 7.0."""


def footprint_of(
    members: Sequence[TrainSpec], data: TrainingData, *, accelerator: bool = False
) -> Footprint:
    """What runs hold that share one stream of rows: each its state all the time, and, since they
    step in turn, the temporaries of the one that needs most. Of resolved specs."""
    lasting = [row for spec in members for row in _state(spec, data)]
    worst = max((_temporaries(spec, data) for spec in members), key=_peak_of)
    held = (*lasting, *worst, *_rows_read(members[0], data), *_base(accelerator))
    return Footprint(held, accelerator)


def _peak_of(rows: Sequence[Held]) -> int:
    return Footprint(tuple(rows)).peak


def _temporaries(spec: TrainSpec, data: TrainingData) -> list[Held]:
    return [*_initialisation(spec, data), *_step(spec, data), *_closing(spec, data)]


def _shapes(spec: TrainSpec, data: TrainingData) -> Shapes:
    return parameter_shapes(
        spec.architecture.name, data.d, spec.d_sae, data.d_target, skip=spec.skip_connection
    )


def _each(
    prefix: str, shapes: Shapes, moments: frozenset[Moment], part: Part = Part.TEMPORARIES
) -> list[Held]:
    return [Held(f"{prefix}{n}", shape, "float32", moments, part) for n, shape in shapes.items()]


def _state(spec: TrainSpec, data: TrainingData) -> list[Held]:
    shapes = _shapes(spec, data)
    counters = Held("tokens_since_fired", (spec.d_sae,), "int64", TRAINED, Part.OPTIMIZER)
    return [
        *_each("", shapes, ALWAYS, Part.PARAMETERS),
        *_each("first.", shapes, TRAINED, Part.OPTIMIZER),
        *_each("second.", shapes, TRAINED, Part.OPTIMIZER),
        counters,
    ]


def _initialisation(spec: TrainSpec, data: TrainingData) -> list[Held]:
    now = frozenset({Moment.INITIALISATION})
    rows = min(_sample_rows(spec), data.train_rows)
    sample = (rows, data.width)
    held = [Held("sample", sample, "float32", now | {Moment.START})]
    if _weiszfeld(spec):
        held.append(Held("sample, distances and their squares", (3, *sample), "float64", now))
    else:
        held.append(Held("centring and scaling of the sample", (3, *sample), "float32", now))
        held.append(
            Held("squares of a dictionary's rows", (spec.d_sae, data.d_out), "float32", now)
        )
    if isinstance(spec.architecture, JumpReluSpec):
        held.append(Held("quantiles", (2, rows, _QUANTILE_BLOCK), "float32", now))
    if spec.target_l0 is not None:
        measured = (3, min(spec.batch_size, _L0_ROWS), spec.d_sae)
        held.append(Held("features", measured, "float32", frozenset({Moment.START})))
        held += _each("form.", _shapes(spec, data), frozenset({Moment.START}))
    return held


def _weiszfeld(spec: TrainSpec) -> bool:
    """Whether biases start at geometric medians (`ops.location`)."""
    chosen = spec.architecture
    family = isinstance(chosen, TopKSpec | BatchTopKSpec)
    return family and chosen.b_dec_init == "geometric_median"


def _sample_rows(spec: TrainSpec) -> int:
    if isinstance(spec.architecture, JumpReluSpec):
        wanted = 10 * spec.d_sae / (spec.architecture.initial_l0 or 1)
        return max(4_096, math.ceil(wanted))
    return _SAMPLE_ROWS if isinstance(spec.architecture, TopKSpec | BatchTopKSpec) else 1


def _step(spec: TrainSpec, data: TrainingData) -> list[Held]:
    rows, shapes = micro_batch_of(spec), _shapes(spec, data)
    later = STEP - {Moment.FORWARD}
    widest = max(data.d, data.d_out)
    held = [
        Held("rows, centred, and their errors", (4, rows, data.width), "float32", STEP),
        *_each("gradient.", shapes, later, Part.GRADIENTS),
        Held("squares of rows", (spec.d_sae, widest), "float32", frozenset({Moment.UPDATE})),
    ]
    if rows < spec.batch_size:
        held += _each("sum.", shapes, STEP, Part.GRADIENTS)
    dense = spec.architecture.name in _DENSE_ACTIVATIONS
    return held + (_dense_step(spec, rows) if dense else _sparse_step(spec, data, rows))


def _dense_step(spec: TrainSpec, rows: int) -> list[Held]:
    """Autograd of the loss: every intermediate value of every latent."""
    copies = _DENSE_ACTIVATIONS[spec.architecture.name]
    whole = (rows, spec.d_sae)
    held = [Held("activations", (copies, *whole), "float32", frozenset({Moment.BACKWARD}))]
    if _auxk(spec):
        both = STEP - {Moment.UPDATE}
        held.append(Held("pre-activations of dead latents", (2, *whole), "float32", both))
    return held


def _sparse_step(spec: TrainSpec, data: TrainingData, rows: int) -> list[Held]:
    """One dense product, from which entries are chosen; the rest works on entries."""
    forward, backward = frozenset({Moment.FORWARD}), frozenset({Moment.BACKWARD})
    low = "bfloat16" if spec.encoder_dtype == "bfloat16" else "float32"
    whole, entries = (rows, spec.d_sae), math.ceil(_entries(spec) * rows)
    held = [
        Held("pre-activations", whole, low, forward),
        Held("chosen values", (3, entries), "float32", forward | backward),
        Held("chosen rows and latents", (4, entries), "int64", forward | backward),
        Held("pre-activations of dead latents", whole if _auxk(spec) else (0,), low, forward),
    ]
    if low != "float32":
        held.append(Held("W_enc in low precision", (spec.d_sae, data.d), low, forward))
    return held


def _entries(spec: TrainSpec) -> float:
    """Entries of a row: active latents, four times as many for Multi-TopK, and AuxK's."""
    chosen, active = spec.architecture, 0.0
    if isinstance(chosen, TopKSpec):
        active = chosen.k * (4 if chosen.multi_topk_coefficient else 1)
    if isinstance(chosen, BatchTopKSpec):
        active = max(chosen.k, chosen.k_initial or 0)
    return active + _auxk(spec)


def _auxk(spec: TrainSpec) -> int:
    """Latents a row that AuxK may take; 0 where it is off."""
    chosen = spec.architecture
    if not isinstance(chosen, AuxKSpec) or not chosen.auxk_coefficient:
        return 0
    return min(chosen.k_aux or 0, spec.d_sae)


def _closing(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """What looks at the trained model hold: the form is a copy of the parameters, the fold another
    in blocks of float64."""
    shapes, widest = _shapes(spec, data), max(data.d, data.d_out)
    export, evaluation = frozenset({Moment.EXPORT}), frozenset({Moment.EVALUATION})
    block = min(_FOLD_ELEMENTS, spec.d_sae * widest)
    held = [
        *_each("form.", shapes, export),
        *_each("folded.", shapes, export | evaluation),
        Held("blocks of the fold", (4, block), "float64", export),
        Held("features by blocks", (2, _EVALUATION_BYTES), "byte", evaluation),
        Held("held-out rows", (4, _EVALUATION_ROWS, data.width), "float64", evaluation),
    ]
    rows = micro_batch_of(spec)
    for moment, wanted in (
        (Moment.JUDGING, spec.target_l0 is not None),
        (Moment.RESAMPLING, spec.resample is not None),
    ):
        if wanted:
            held += _each("form.", shapes, frozenset({moment}))
            held.append(Held("features", (3, rows, spec.d_sae), "float32", frozenset({moment})))
    return held


def _rows_read(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """Rows held to be shuffled, in the stored type, and the shard that is being read."""
    window = min(spec.preprocess.window_shards * data.shard_rows, data.train_rows)
    stored = ("byte", ALWAYS, Part.DATA, True)
    row = data.width * data.value_bytes
    return [
        Held("window", (window, row), *stored),
        Held("shard being read", (min(data.shard_rows, data.train_rows), row), *stored),
    ]


def _base(accelerator: bool) -> list[Held]:
    def held(name: str, size: int, moments: frozenset[Moment], host: bool) -> Held:
        return Held(name, (size,), "byte", moments, Part.BASE, host)

    context = CONTEXT_BYTES if accelerator else 0
    stepped = TRAINED - {Moment.START}
    return [
        held("interpreter, torch and kernels", BASE_BYTES, ALWAYS, True),
        held("blocks that the allocator keeps", SLACK_BYTES, stepped, True),
        held("the accelerator's context", context, ALWAYS, False),
    ]
