"""What a step in a GPU's kernels takes on a nominal card: products, bytes and gathered rows.

The amounts are functions of the shapes, fitted to the steps that are counted on the meta device at
full size (`bench/gpu/budgets`): a test holds them to that table. The rates were measured on one
H200, each by itself. `speed` uses ratios of the sums alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from saeserve.core.planning.machine import StepShape
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS

LOW_FLOPS = 6.9e14
"""FLOP a second of products of float16: 6.7e14 to 7.4e14 measured."""
FLOAT32_FLOPS = 5.1e13
BYTES = 4.2e12
"""Bytes a second read and written in order, by a copy."""
GATHERED = 5e12
"""Bytes a second of gathered rows: 6.8e12 to 3.6e12 from tables of 8 to 256 MB."""
HOST_S = 1.5e-3
"""Seconds in which the host starts the operations of a micro-batch: 37, at the 41 us that one of 96
took it in a step on the machine of an H200. Recorded steps need less. The device computes
meanwhile: the longer one counts."""
ROWS_IN_CACHE = 192
"""Rows of W_dec of one row's entries, in float16, that are read once (`gpu.reconstruction`)."""
MICRO_BATCH_BYTES = 18
"""Bytes a parameter that each micro-batch after the first adds: copies read by the products,
gradients written, and added up."""


@dataclass(frozen=True)
class Amounts:
    """What a step does."""

    product_flops: float
    bytes: float
    gathered: float


def amounts(shape: StepShape) -> Amounts:
    """What a step does, without AuxK: few latents are dead but early."""
    entries = ARCHITECTURE_SPECS[shape.architecture].cost.compiled == "entries"
    return _of_entries(shape) if entries else _of_dense(shape)


def seconds(shape: StepShape) -> float:
    """Seconds of a step on the nominal card."""
    work = amounts(shape)
    rate = LOW_FLOPS if _low(shape) else FLOAT32_FLOPS
    device = work.product_flops / rate + work.bytes / BYTES + work.gathered / GATHERED
    return max(device, shape.micro_batches * HOST_S)


def _of_entries(shape: StepShape) -> Amounts:
    """One product, whose result is read to choose from; rows of what is chosen."""
    rows, width = shape.batch_size, (shape.d_in + shape.d_out) / 2
    chosen = rows * shape.active * width
    # Rows with their errors, those of each further prefix, and long sums of a latent in parts.
    of_rows = (34.5 + 29 * (shape.reconstructions - 1)) * rows * width + 0.37 * chosen
    # Rows of the decoder, once or twice, of errors and of inputs; what is computed again.
    each = 2 if _low(shape) else 4
    again = (0.8 if shape.few_computed else 4.5) if _low(shape) else 0
    gathered = ((3 if shape.active <= ROWS_IN_CACHE else 4) * each + again) * chosen
    return Amounts(
        product_flops=2 * rows * shape.d_in * shape.d_sae,
        bytes=2.2 * _entry_bytes(shape) + of_rows + _parameter_bytes(shape, 39),
        gathered=gathered,
    )


def _of_dense(shape: StepShape) -> Amounts:
    """Products and passes over all pre-activations."""
    cost, rows = ARCHITECTURE_SPECS[shape.architecture].cost, shape.batch_size
    tensors = cost.device_tensors
    # The encoder's and its gradient's: what autograd has more are sums over rows here.
    wide = 2 * shape.d_in + cost.other_products * shape.d_out
    # Entries near a level are computed again: 0.4 % of them, by rows of W_enc.
    again = 0.0176 * rows * shape.d_in * shape.d_sae if _low(shape) else 0
    of_rows = 30 * tensors * rows * (shape.d_in + shape.d_out) / 2
    return Amounts(
        product_flops=2 * rows * wide * shape.d_sae,
        bytes=(5 + 2.5 * tensors) * _entry_bytes(shape) + of_rows + _parameter_bytes(shape, 51),
        gathered=again,
    )


def _low(shape: StepShape) -> bool:
    return shape.encoder_dtype != "float32"


def _entry_bytes(shape: StepShape) -> int:
    """Bytes of one tensor [rows, d_sae]."""
    return (2 if _low(shape) else 4) * shape.batch_size * shape.d_sae


def _parameter_bytes(shape: StepShape, each: int) -> int:
    """Bytes by parameter: `each` for the optimiser, the copies and the first gradients."""
    return (each + MICRO_BATCH_BYTES * (shape.micro_batches - 1)) * shape.parameters
