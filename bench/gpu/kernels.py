"""Each kernel of TopK's step at full size: compared with torch in float64, and timed.

Without Triton nothing runs, and on a CPU only in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from bench.gpu.lab import Lab, Record, Shape, planted_rows, relative
from torch import Tensor

from saeserve.core.gpu.device import available

if TYPE_CHECKING:
    from saeserve.core.gpu.choice import Chosen
    from saeserve.core.gpu.reconstruction import Reconstructed
    from saeserve.core.kernels.topk.weights import DictionaryGradients

MEASURED = ("S1", "S2")
TINY = Shape(24, 64, 3, 8)
"""An interpreted program takes milliseconds."""
CHECKED_ROWS = 512
"""Rows that are compared at once, so that float64 of all entries fits."""


@dataclass(frozen=True)
class Layer:
    """Rows and the parameters of one SAE."""

    x_BD: Tensor
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    k: int

    @classmethod
    def of(cls, lab: Lab, shape: Shape) -> Layer:
        """Planted rows, and unit directions with small biases."""
        draws = torch.Generator(device=lab.device).manual_seed(3)
        W_dec = torch.randn(shape.m, shape.d, generator=draws, device=lab.device)
        W_dec /= W_dec.square().sum(1, keepdim=True).sqrt()
        b_enc = 0.01 * torch.randn(shape.m, generator=draws, device=lab.device)
        b_dec = 0.1 * torch.randn(shape.d, generator=draws, device=lab.device)
        x_BD = planted_rows(shape.batch, shape.d, lab.device)
        return cls(x_BD, W_dec.clone(), b_enc, W_dec, b_dec, shape.k)


def run(lab: Lab) -> None:
    """All of them, into lab.data["kernels"]."""
    data: Record = {}
    lab.data["kernels"] = data
    if why := impossible(lab):
        data["all"] = {"skipped": why}
        return
    for name in MEASURED[:1] if lab.tiny else MEASURED:
        measure(lab, data, name)
        lab.free()


def impossible(lab: Lab) -> str:
    """Why kernels cannot run here; "" where they can."""
    if not available():
        return "Triton is not installed"
    import triton

    if lab.cuda or triton.knobs.runtime.interpret:
        return ""
    return "without a GPU kernels need Triton's interpreter: TRITON_INTERPRET=1"


def measure(lab: Lab, data: Record, name: str) -> None:
    """The kernels one after the other, each on what the one before has found."""
    from saeserve.core.gpu import choice, reconstruction, rows, segments
    from saeserve.core.gpu.entries import Entries
    from saeserve.core.gpu.reconstruction import Shares
    from saeserve.core.gpu.rows import Rows

    layer = Layer.of(lab, TINY if lab.tiny else lab.shapes[name])
    scale = torch.full((), -2 / len(layer.x_BD), device=lab.device)
    x_BD, x_low = rows.centred(layer.x_BD, layer.b_dec)
    W_low, b_low = rows.shadow_of(layer.W_enc), layer.b_enc.to(rows.LOW)
    h_BF = torch.addmm(b_low, x_low.low_FD, W_low.low_FD.T)
    errors_B = rows.likely_errors(x_low, W_low, layer.b_enc)

    def choose() -> Chosen:
        weights = (layer.W_enc, layer.b_enc)
        return choice.top_of_low(h_BF, errors_B, layer.k, x_BD, weights, only_open=True)

    chosen = choose()

    entries = Entries.of_rows(chosen)

    def rebuild() -> Reconstructed:
        rows_of = (rows.shadow_of(layer.W_dec).low_FD, layer.b_dec, layer.x_BD)
        return reconstruction.reconstruct(entries, *rows_of, Shares())

    found = rebuild()

    def differentiate() -> DictionaryGradients:
        dictionaries = layer.W_enc, layer.W_dec
        return segments.gradients(entries, found, Rows(x_BD, x_low), dictionaries, scale, 1)

    total = differentiate()
    tasks: dict[str, tuple[Callable[[], object], Callable[[], Record]]] = {
        "centre": (
            lambda: rows.centred(layer.x_BD, layer.b_dec),
            lambda: {"difference": relative(x_BD, layer.x_BD - layer.b_dec)},
        ),
        "encode": (
            lambda: torch.addmm(b_low, x_low.low_FD, W_low.low_FD.T),
            lambda: {"difference": relative(h_BF[:CHECKED_ROWS], _exact(layer, x_BD))},
        ),
        "choice": (choose, lambda: _choice(layer, x_BD, chosen, choose())),
        "reconstruction": (rebuild, lambda: _rebuilt(layer, chosen, found, rebuild())),
        "segments": (
            differentiate,
            lambda: _summed(layer, x_BD, chosen, found, (total, differentiate()), float(scale)),
        ),
        "update": (_update(layer, total), dict[str, float]),
    }
    for task, (what, check) in tasks.items():
        lab.attempt(data, f"{name} {task}", lambda w=what, c=check: lab.ms(lambda _: w()) | c())


def _update(layer: Layer, total: DictionaryGradients) -> Callable[[], object]:
    """The optimiser's step on both dictionaries, with their low-precision copies."""
    from saeserve.core.gpu import rows, scalars
    from saeserve.core.gpu.update import Rates, update_

    params = {"W_enc": layer.W_enc.clone(), "W_dec": layer.W_dec.clone()}
    moments = tuple({name: torch.zeros_like(w) for name, w in params.items()} for _ in range(2))
    shadow = {name: rows.shadow_of(w) for name, w in params.items()}
    grads = {"W_enc": total.W_enc, "W_dec": total.W_dec}
    rates = scalars.written(Rates(0.9, 0.1, 0.999, 0.001, 1e-4, 1e-8), layer.W_enc.device)
    return lambda: update_(
        params, grads, (moments[0], moments[1]), frozenset({"W_dec"}), shadow, 1.0, rates, 1e-30
    )


def _exact(layer: Layer, x_BD: Tensor) -> Tensor:
    some = x_BD[:CHECKED_ROWS].double()
    return some @ layer.W_enc.double().T + layer.b_enc


def _choice(layer: Layer, x_BD: Tensor, chosen: Chosen, again: Chosen) -> Record:
    """Latents and values of some rows compared with those of float64."""
    exact = _exact(layer, x_BD).topk(layer.k, dim=1)
    wanted = torch.zeros(len(exact.indices), len(layer.W_enc), device=x_BD.device)
    wanted.scatter_(1, exact.indices, exact.values.relu().float())
    found = torch.zeros_like(wanted)
    latents = chosen.latents_BK[: len(wanted)].long()
    found.scatter_add_(1, latents, chosen.values_BK[: len(wanted)])
    both, either = (found > 0) & (wanted > 0), (found > 0) | (wanted > 0)
    return {
        "difference": relative(found, wanted),
        "jaccard": float(both.sum() / either.sum()),
        "bit_equal": torch.equal(chosen.values_BK, again.values_BK)
        and torch.equal(chosen.latents_BK, again.latents_BK),
    }


def _rebuilt(layer: Layer, chosen: Chosen, found: Reconstructed, again: Reconstructed) -> Record:
    some = slice(0, CHECKED_ROWS)
    gathered = layer.W_dec[chosen.latents_BK[some].long()].double()
    values = chosen.values_BK[some].double()
    residual = layer.x_BD[some].double() - layer.b_dec - (values[:, None] @ gathered)[:, 0]
    used, dots_BK = values != 0, found.dots_TN.sum(0).view_as(chosen.values_BK)[some]
    dots = torch.where(used, (gathered @ residual[:, :, None])[:, :, 0], 0.0)
    return {
        "difference": max(
            relative(found.residual_BO[some], residual),
            relative(torch.where(used, dots_BK, 0.0), dots),
        ),
        "bit_equal": torch.equal(found.residual_BO, again.residual_BO)
        and torch.equal(found.dots_TN, again.dots_TN),
    }


def _summed(
    layer: Layer,
    x_BD: Tensor,
    chosen: Chosen,
    found: Reconstructed,
    pair: tuple[DictionaryGradients, DictionaryGradients],
    scale: float,
) -> Record:
    total, again = pair
    W_dec = torch.zeros_like(layer.W_dec, dtype=torch.float64)
    W_enc = torch.zeros_like(layer.W_enc, dtype=torch.float64)
    dots_BK = found.dots_TN.sum(0).view_as(chosen.values_BK)
    for start in range(0, len(x_BD), CHECKED_ROWS):
        some = slice(start, start + CHECKED_ROWS)
        latents, values = chosen.latents_BK[some].long(), chosen.values_BK[some].double()
        dots = torch.where(values != 0, dots_BK[some].double(), 0.0)
        for column in range(chosen.latents_BK.shape[1]):
            at = latents[:, column]
            W_dec.index_add_(0, at, values[:, column, None] * found.residual_BO[some].double())
            W_enc.index_add_(0, at, dots[:, column, None] * x_BD[some].double())
    return {
        "difference": max(
            relative(total.W_dec, scale * W_dec), relative(total.W_enc, scale * W_enc)
        ),
        "bit_equal": torch.equal(total.W_enc, again.W_enc)
        and torch.equal(total.W_dec, again.W_dec),
    }
