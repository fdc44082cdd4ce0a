"""Which tensors a step in a GPU's kernels holds (`core.gpu`), in addition to state and gradients.

A test compares them with what the step holds on the meta device at full size.
"""

from __future__ import annotations

import math

from saeserve.core.planning.footprint import STEP, TRAINED, Held, Moment, Part
from saeserve.core.planning.sizes import TrainingData, micro_batch_of
from saeserve.core.specs.training import TrainSpec

GROUP = 32
"""Columns of a group of `gpu.choice`."""
LIST = 512
"""Entries that a row's list holds in addition to k there, before it is rounded up to a power of
two."""
WINDOW = 128
"""Entries of a latent after which its sums are cut into parts in `gpu.segments`."""
BLOCK_BYTES = 64 * 2**20
"""Bytes of a block of dead latents' pre-activations in AuxK's kernels. A test compares these four
with the modules."""

_FORWARD = frozenset({Moment.FORWARD})
_BACKWARD = frozenset({Moment.BACKWARD})


def has_kernels(spec: TrainSpec) -> bool:
    """Whether a step of this spec runs in kernels where Triton is installed."""
    if spec.architecture.cost.compiled == "entries":
        return True
    dense = spec.architecture.cost.device_tensors > 0
    return dense and not spec.architecture.auxiliary_latents(spec.d_sae)


def kernels_step(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """What such a step holds."""
    if spec.architecture.cost.compiled == "entries":
        return [*_copies(spec, data), *_entries(spec, data), *_dead_latents(spec, data)]
    both, tensors = STEP - {Moment.UPDATE}, spec.architecture.cost.device_tensors
    whole = (tensors, micro_batch_of(spec), spec.d_sae)
    dense = Held("pre-activations, features and slopes", whole, low_of(spec), both)
    return [*_copies(spec, data), dense]


def low_of(spec: TrainSpec) -> str:
    """The type of the kernels' products."""
    return "float32" if spec.encoder_dtype == "float32" else "float16"


def _copies(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """Copies of dictionaries for products and gathers, which are kept."""
    if low_of(spec) == "float32":
        return []
    size = (2, spec.d_sae, max(data.d, data.d_out))
    return [Held("low-precision weights", size, "float16", TRAINED, Part.OPTIMIZER)]


def _entries(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """Pre-activations, what chooses among them, and what is chosen."""
    architecture, rows = spec.architecture, micro_batch_of(spec)
    # A choice that depends on the whole batch keeps no list a row.
    active, by_row = architecture.most_active_latents, not architecture.calibrates_threshold
    # Where a row's larger choice has a term of its own, that is a second group.
    groups = 2 if by_row and active != architecture.asked_l0 else architecture.reconstructions
    listed = rows * 2 ** math.ceil(math.log2(active + LIST)) if by_row else 0
    return [
        Held("pre-activations", (rows, spec.d_sae), low_of(spec), _FORWARD),
        Held("largest of groups", (2, rows, -(-spec.d_sae // GROUP)), "float32", _FORWARD),
        Held("lists of candidates", (2, listed), "float32", _FORWARD),
        Held("entries by latent", (9, math.ceil(rows * active)), "float32", _BACKWARD),
        Held("errors of prefixes", (groups - 1, rows, data.d_out), "float32", _BACKWARD),
        *_rounded(spec, data, groups),
    ]


def _rounded(spec: TrainSpec, data: TrainingData, groups: int) -> list[Held]:
    """Errors and rows as gradients gather them, where those are not float32."""
    if low_of(spec) == "float32":
        return []
    rows = micro_batch_of(spec)
    size = (groups + 1, rows, max(data.d, data.d_out))
    return [Held("errors and rows in low precision", size, "float16", _BACKWARD)]


def _dead_latents(spec: TrainSpec, data: TrainingData) -> list[Held]:
    """AuxK's rows of the dictionaries, their gradients and its blocks, as if all latents were dead,
    which many can be early; without it, parts of the gradients of latents with many entries."""
    architecture, rows, width = spec.architecture, micro_batch_of(spec), data.d + data.d_out
    if not architecture.auxiliary_latents(spec.d_sae):
        parts = 2 * math.ceil(rows * architecture.most_active_latents / WINDOW)
        return [Held("parts of long sums", (parts, width), "float32", _BACKWARD)]
    block = min(BLOCK_BYTES // 4, rows * spec.d_sae)
    return [
        Held("rows of dead latents", (2, spec.d_sae, width), "float32", _BACKWARD),
        Held("blocks of dead latents", (4, block), "float32", _BACKWARD),
    ]
