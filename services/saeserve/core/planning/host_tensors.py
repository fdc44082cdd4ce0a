"""Which tensors a training job on an accelerator holds in its host's memory, in addition to rows
that it reads and to what its start is made of there (`tensors`).

Staging memory is pinned. Torch's allocator rounds pinned blocks up to powers of two and keeps them
to the end of the process.
"""

from __future__ import annotations

from math import prod

from saeserve.core.planning.footprint import ALWAYS, TRAINED, Held, Moment, Part
from saeserve.core.planning.sizes import TrainingData, micro_batch_of, shapes_of
from saeserve.core.specs.training import TrainSpec

CUDA_BYTES = 2**30
"""What the driver and CUDA's libraries take of the host: the customary size, not measured here."""
STAGED_BLOCKS = 2
STAGED_PIECES = 2
SENT_BYTES = 2**26
"""These equal those of `data.staged` and `data.stored`; a test compares them."""

_FLOAT, _COUNT = 4, 8
_STEPPED = TRAINED - {Moment.START}


def staged(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """Micro-batches on their way, and pieces of all rows while those are gone through."""
    row = data.width * data.value_bytes
    piece = min(data.train_rows, max(1, SENT_BYTES // row)) * row
    blocks = (STAGED_BLOCKS, _pinned(micro_batch_of(spec) * row))
    pieces = (STAGED_PIECES, _pinned(piece))
    return [
        Held("blocks staged", blocks, "byte", TRAINED, Part.DATA, host=True),
        Held("pieces staged", pieces, "byte", ALWAYS, Part.DATA, host=True),
    ]


def behind_device(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """One run's parameters before they go to the device, its state while a checkpoint is written,
    and its folded tensors while they are saved."""
    shapes = shapes_of(spec, data)
    started = frozenset({Moment.INITIALISATION, Moment.START})
    held = [
        Held(f"{prefix}.{name}", shape, "float32", moments, host=True)
        for prefix, moments in (("start", started), ("saved", frozenset({Moment.EXPORT})))
        for name, shape in shapes.items()
    ]
    values = [_FLOAT * prod(shape) for shape in shapes.values()]
    copies = 3 * sum(map(_pinned, values)) + 2 * _pinned(_COUNT * spec.d_sae)
    return [*held, Held("checkpoint on the host", (copies,), "byte", _STEPPED, host=True)]


def _pinned(size: int) -> int:
    """The block that holds so many bytes."""
    return 1 << max(0, size - 1).bit_length()
