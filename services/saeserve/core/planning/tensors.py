"""Which tensors a training job holds in which moment: the rows of `footprint`.

To correct a plan, correct its row: `make bench-memory` compares the figure with the peak that the
kernel counts. Rows that a step of one architecture adds are in `_dense_step` and `_sparse_step`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from saeserve.core.planning.device_tensors import has_kernels, kernels_step
from saeserve.core.planning.footprint import (
    ALWAYS,
    STEP,
    TRAINED,
    Footprint,
    Held,
    Memory,
    Moment,
    Part,
)
from saeserve.core.planning.host_tensors import CUDA_BYTES, behind_device, staged
from saeserve.core.planning.sizes import Shapes, TrainingData, micro_batch_of, shapes_of
from saeserve.core.specs.closing import is_judged
from saeserve.core.specs.training import TrainSpec

BASE_BYTES = 390 * 2**20
"""Resident bytes of a job process that has imported torch, numba and the trainer and computed a
little: 387 MiB measured (torch 2.13 for CPU on Linux), of which 146 MiB are mapped libraries."""
SLACK_BYTES = 110 * 2**20
"""What the compiled kernels take, and what the allocator keeps once steps have run: glibc gives
blocks above its threshold (at most 32 MiB) back at once and holds smaller ones back. 100 to 120 MiB
measured; a run that has to compile the kernels first takes about as much again."""
CONTEXT_BYTES = 512 * 2**20
"""An accelerator's context and libraries: the customary size, not measured here."""

L0_ROWS = 2_048
FOLD_ELEMENTS = 2**23
EVALUATION_BYTES = 64 * 2**20
EVALUATION_ROWS = 2_048
BLOCKS_AHEAD = 2
"""These equal those of `training.starting`, `export.fold`, `ops.sparse`, the runner and
`data.staged`; a test compares them."""

_BLOCK_ROWS = 256
"""Rows of pre-activations that compiled steps have at a time (`core.kernels`)."""
_DEAD_BLOCK_BYTES = 64 * 2**20
"""Bytes of a block of dead latents' pre-activations."""
_SPARE = 16
"""Candidates a row beyond those that are kept."""


def footprint_of(
    members: Sequence[TrainSpec], data: TrainingData, memory: Memory = Memory.SHARED
) -> Footprint:
    """What runs hold in one memory that share one stream of rows: each its state all the time, and,
    since they step in turn, the temporaries of the one that needs most. Of resolved specs."""
    accelerator = memory is not Memory.SHARED
    lasting = [row for spec in members for row in _state(spec, data)]
    each = (_temporaries(spec, data, accelerator) for spec in members)
    worst = max(each, key=lambda rows: Footprint(tuple(rows), memory).peak)
    rows = _rows_read(members[0], data)
    if accelerator:
        rows += [*_rows_sent(members[0], data), *staged(members[0], data)]
    held = (*lasting, *worst, *rows, *_continued(members[0], data), *_base(accelerator))
    return Footprint(held, memory)


def _temporaries(spec: TrainSpec, data: TrainingData, accelerator: bool) -> list[Held]:
    step = _step(spec, data, accelerator)
    held = [*_initialisation(spec, data), *step, *_closing(spec, data)]
    return held + behind_device(spec, data) if accelerator else held


def _each(
    prefix: str, shapes: Shapes, moments: frozenset[Moment], part: Part = Part.TEMPORARIES
) -> list[Held]:
    return [Held(f"{prefix}{n}", shape, "float32", moments, part) for n, shape in shapes.items()]


def _state(spec: TrainSpec, data: TrainingData) -> list[Held]:
    shapes = shapes_of(spec, data)
    counters = Held("tokens since firing", (2, spec.d_sae), "int64", TRAINED, Part.OPTIMIZER)
    return [
        *_each("", shapes, ALWAYS, Part.PARAMETERS),
        *_each("first.", shapes, TRAINED, Part.OPTIMIZER),
        *_each("second.", shapes, TRAINED, Part.OPTIMIZER),
        counters,
    ]


def _continued(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """The model that runs continue from, which their setup keeps."""
    if spec.init_from is None:
        return []
    shapes = shapes_of(spec, data).items()
    return [
        Held(f"initial.{name}", shape, "float32", ALWAYS, Part.PARAMETERS, host=True)
        for name, shape in shapes
    ]


def _initialisation(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """What the start holds: in the host's memory, until L0 is measured."""
    now = frozenset({Moment.INITIALISATION})
    rows = min(spec.architecture.sample_rows(spec.d_sae), data.train_rows)
    sample = (rows, data.width)
    held = [Held("sample", sample, "float32", now | {Moment.START}, host=True)]
    if spec.architecture.starts_at_median:  # `ops.location` computes in float64
        found = [("sample, distances and their squares", (3, *sample), "float64")]
    else:
        found = [
            ("centring and scaling of the sample", (3, *sample), "float32"),
            ("squares of a dictionary's rows", (spec.d_sae, data.d_out), "float32"),
        ]
    if quantiles := spec.architecture.quantile_latents:
        found.append(("quantiles", (2, rows, quantiles), "float32"))
    held += [Held(name, shape, kind, now, host=True) for name, shape, kind in found]
    if spec.target_l0 is not None:
        measured = (3, min(spec.batch_size, L0_ROWS), spec.d_sae)
        held.append(Held("features", measured, "float32", frozenset({Moment.START})))
        held += _each("form.", shapes_of(spec, data), frozenset({Moment.START}))
    return held


def _step(spec: TrainSpec, data: TrainingData, accelerator: bool) -> list[Held]:
    rows, shapes = micro_batch_of(spec), shapes_of(spec, data)
    held = [
        Held("rows, centred, and their errors", (4, rows, data.width), "float32", STEP),
        *_each("gradient.", shapes, STEP - {Moment.FORWARD}, Part.GRADIENTS),
    ]
    if rows < spec.batch_size:
        held += _each("sum.", shapes, STEP, Part.GRADIENTS)
    if spec.skip_connection:
        left = (2, rows, data.d_out)
        held.append(Held("what a skip connection leaves, and its gradient", left, "float32", STEP))
    if accelerator and has_kernels(spec):
        return held + kernels_step(spec, data)
    compiled = "none" if accelerator else spec.architecture.cost.compiled
    of_kind = {"none": _autograd_step, "dense": _band_step, "entries": _entries_step}
    return held + of_kind[compiled](spec, data, rows)


def _autograd_step(spec: TrainSpec, data: TrainingData, rows: int) -> list[Held]:
    """Every intermediate value of every latent; those of AuxK where it is not counted already."""
    copies, whole = spec.architecture.cost.autograd_tensors, (rows, spec.d_sae)
    on = STEP - {Moment.UPDATE}
    backward = frozenset({Moment.BACKWARD})
    dense = copies > 2
    held = [
        Held("activations", (copies, *whole), "float32", backward if dense else on),
        Held("entries", (4, rows, math.ceil(_entries(spec))), "int64", on),
        Held("squares of rows", (spec.d_sae, data.d_out), "float32", frozenset({Moment.UPDATE})),
    ]
    if dense and spec.architecture.auxiliary_latents(spec.d_sae):
        held.append(Held("pre-activations of dead latents", (2, *whole), "float32", on))
    return held


def _entries_step(spec: TrainSpec, data: TrainingData, rows: int) -> list[Held]:
    """Compiled loops over entries: one dense product block by block, and what is chosen from it.
    Twice as many candidates are collected as entries are kept."""
    forward, backward = frozenset({Moment.FORWARD}), frozenset({Moment.BACKWARD})
    entries = math.ceil(
        (_entries(spec) - spec.architecture.auxiliary_latents(spec.d_sae) + _SPARE) * rows
    )
    return [
        *_encoder(spec, data, forward),
        Held("values of candidates", (2, entries), "float32", forward | backward),
        Held("latents of candidates", (2, entries), "int64", forward | backward),
        Held("entries by latent", (4, entries), "float32", backward),
        Held(
            "gradients of prefixes",
            (spec.architecture.reconstructions, rows, data.d_out),
            "float32",
            backward,
        ),
        *_dead_latents(spec, data, rows),
    ]


def _dead_latents(spec: TrainSpec, data: TrainingData, rows: int) -> list[Held]:
    """AuxK's rows of the dictionaries, their gradients, and their pre-activations by blocks; as if
    all latents were dead, which few are later but most can be early."""
    if not spec.architecture.auxiliary_latents(spec.d_sae):
        return []
    backward, dead = frozenset({Moment.BACKWARD}), spec.d_sae
    block = min(_DEAD_BLOCK_BYTES // 4, rows * dead)
    return [
        Held("rows of dead latents", (2, dead, data.d + data.d_out), "float32", backward),
        Held("features of dead latents, gradients, a mask", (3, block), "float32", backward),
        Held("masks of dead latents", (2, block), "bool", backward),
    ]


def _band_step(spec: TrainSpec, data: TrainingData, rows: int) -> list[Held]:
    """Compiled loops over a batch on their dense way: its distances from the threshold and its
    features. The lists of the sparse ways are shorter, else the dense one is taken."""
    both = STEP - {Moment.UPDATE}
    return [
        *_encoder(spec, data, both),
        Held("distances and features", (2, rows, spec.d_sae), _low(spec), both),
        Held(
            "a product's result", (spec.d_sae, data.d_out), _low(spec), frozenset({Moment.BACKWARD})
        ),
    ]


def _encoder(spec: TrainSpec, data: TrainingData, moments: frozenset[Moment]) -> list[Held]:
    """Weights in the product's type, packed for it, and blocks of its result."""
    low, block = _low(spec), (2, min(_BLOCK_ROWS, micro_batch_of(spec)), spec.d_sae)
    copies = 2 if low != "float32" else 0
    return [
        Held("weights for the product", (copies, spec.d_sae, data.d), low, moments),
        Held("pre-activations by blocks", block, "float32", moments),
    ]


def _low(spec: TrainSpec) -> str:
    """The type of the encoder's product. Left to the hardware it is bfloat16, as wherever training
    is worth planning; elsewhere the plan is low by a compiled step's dense features."""
    return "float32" if spec.encoder_dtype == "float32" else "bfloat16"


def _entries(spec: TrainSpec) -> float:
    """Entries of a row: active latents where they are gathered, and AuxK's."""
    return spec.architecture.most_active_latents + spec.architecture.auxiliary_latents(spec.d_sae)


def _closing(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """What looks at the trained model hold: the form is a copy of the parameters, the fold another
    in blocks of float64."""
    shapes, widest = shapes_of(spec, data), max(data.d, data.d_out)
    export, evaluation = frozenset({Moment.EXPORT}), frozenset({Moment.EVALUATION})
    block = min(FOLD_ELEMENTS, spec.d_sae * widest)
    features = min(EVALUATION_BYTES // 4, EVALUATION_ROWS * spec.d_sae)
    held = [
        *_each("form.", shapes, export),
        *_each("folded.", shapes, export | evaluation),
        Held("blocks of the fold", (4, block), "float64", export),
        Held("features by blocks", (2, features), "float32", evaluation),
        Held("held-out rows", (4, EVALUATION_ROWS, data.width), "float64", evaluation),
    ]
    rows = micro_batch_of(spec)
    for moment, wanted in (
        (Moment.JUDGING, is_judged(spec, data.heldout_rows)),
        (Moment.RESAMPLING, spec.resample is not None),
    ):
        if wanted:
            held += _each("form.", shapes, frozenset({moment}))
            held.append(Held("features", (3, rows, spec.d_sae), "float32", frozenset({moment})))
    return held


def _rows_read(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """Rows held to be shuffled, in the stored type, those of the next window, which are read
    meanwhile, and the order of both; and the mapped shard that is read."""
    window = min(spec.preprocess.window_shards * data.shard_rows, data.train_rows)
    ahead = min(window, data.train_rows - window)
    row = data.width * data.value_bytes
    stored = ("byte", ALWAYS, Part.DATA, True)
    return [
        Held("window", (window, row), *stored),
        Held("window read ahead", (ahead, row), *stored),
        Held("order of rows", (2, window), "int64", ALWAYS, Part.DATA, host=True),
        Held("shard being read", (min(data.shard_rows, data.train_rows), row), *stored),
    ]


def _rows_sent(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """Micro-batches in the stored type on an accelerator (`core.data.staged`)."""
    block = (1 + BLOCKS_AHEAD, micro_batch_of(spec), data.width * data.value_bytes)
    return [Held("blocks on the device", block, "byte", TRAINED, Part.DATA)]


def _base(accelerator: bool) -> list[Held]:
    def held(name: str, size: int, moments: frozenset[Moment], host: bool) -> Held:
        return Held(name, (size,), "byte", moments, Part.BASE, host)

    context, libraries = (CONTEXT_BYTES, CUDA_BYTES) if accelerator else (0, 0)
    stepped = TRAINED - {Moment.START}
    return [
        held("interpreter, torch and kernels", BASE_BYTES, ALWAYS, True),
        held("blocks that the allocator keeps", SLACK_BYTES, stepped, True),
        held("the accelerator's context", context, ALWAYS, False),
        held("the accelerator's libraries", libraries, ALWAYS, True),
    ]
