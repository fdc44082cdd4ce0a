"""The machine's limit: one encoder GEMM and the bytes of Adam's pass, as fast as they go here.

Limit of a step = time of the GEMM [B, D] x [D, F] + 28 bytes a parameter / bandwidth. Bandwidth is
the better of STREAM's triad and torch's fused Adam, over arrays beyond the caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

ADAM_BYTES = 28
"""A parameter: p, g, m, v read, p, m, v written, in float32."""
TRIAD_BYTES = 12
REPEATS = 3
MOST_NUMBERS = 2**24
"""In an array of the bandwidth's measurement: beyond any cache, and no more than that."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parameters(d_in: int, d_sae: int) -> int:
    """W_enc, W_dec, b_enc, b_dec."""
    return d_sae * (2 * d_in + 1) + d_in


def limit_seconds(d_in: int, d_sae: int, gemm_seconds: float, bytes_per_second: float) -> float:
    """A step's least time."""
    return gemm_seconds + ADAM_BYTES * parameters(d_in, d_sae) / bytes_per_second


class Limits:
    """Measures with arrays that are made once."""

    def __init__(self, d_in: int, d_sae: int, batch: int) -> None:
        self._gemms = {name: Gemm.of(d_in, d_sae, batch, dtype) for name, dtype in DTYPES.items()}
        count = min(parameters(d_in, d_sae), MOST_NUMBERS)
        self._parameter = torch.zeros(count, requires_grad=True)
        self._parameter.grad = torch.ones(count)
        self._adam = torch.optim.Adam([self._parameter], fused=True)
        self._triad = (torch.zeros(count), torch.ones(count), torch.ones(count))

    def turn(self) -> dict[str, float]:
        """gemm_<dtype> in seconds, bytes_per_second: the best of a few tries each."""
        count = self._parameter.numel()
        adam = best(self._adam_step)
        triad = best(lambda: torch.add(self._triad[1], self._triad[2], alpha=3, out=self._triad[0]))
        found = {f"gemm_{name}": gemm.seconds() for name, gemm in self._gemms.items()}
        rate = max(ADAM_BYTES * count / adam, TRIAD_BYTES * count / triad)
        return {**found, "bytes_per_second": rate}

    def _adam_step(self) -> None:
        # torch leaves the type of its closure open.
        self._adam.step()  # pyright: ignore[reportUnknownMemberType]


@dataclass(frozen=True)
class Gemm:
    """The encoder's product in each of two layouts of the weights."""

    x_BD: torch.Tensor
    weights: Sequence[torch.Tensor]
    h_BF: torch.Tensor

    @classmethod
    def of(cls, d_in: int, d_sae: int, batch: int, dtype: torch.dtype) -> Gemm:
        """Random operands."""
        W_DF = torch.randn(d_in, d_sae).to(dtype)
        W_FD = W_DF.T.contiguous()
        x_BD = torch.randn(batch, d_in).to(dtype)
        return cls(x_BD, (W_DF, W_FD.T), torch.empty(batch, d_sae, dtype=dtype))

    def seconds(self) -> float:
        """Time of the faster layout."""
        return min(best(lambda w=w: torch.mm(self.x_BD, w, out=self.h_BF)) for w in self.weights)


def best(work: Callable[[], object]) -> float:
    """Least seconds of a few runs."""
    return min(timed(work) for _ in range(REPEATS))


def timed(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
