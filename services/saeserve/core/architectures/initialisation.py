"""What an autoencoder ties and a transcoder cannot: the dictionaries' start and the input bias.

The TopK family subtracts a bias from its input. An autoencoder subtracts b_dec (the paper's
b_pre); where the target is another source, inputs and targets lie in spaces of their own, so the
input has a bias `b_pre` [D] of its own among the parameters.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Dimensions, Tensors
from saeserve.core.ops.draws import generator
from saeserve.core.ops.location import centre_of
from saeserve.core.ops.norms import renormalise_rows_
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.topk import TopKSpec
from saeserve.errors import DataError


def is_autoencoder(sample_ND: Tensor, target_NO: Tensor) -> bool:
    """Whether the target is the input itself (X = Y, as the sources of the recipes say)."""
    return target_NO is sample_ND or torch.equal(sample_ND, target_NO)


def unit_dictionaries(
    dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int, name: str
) -> Tensors:
    """W_dec with random unit rows, and W_enc equal to it, or random unit rows of its own where
    the target is not the input. `name` (the architecture's) keys the draws."""
    W_dec = _unit_rows(dims.d_sae, dims.d_out, seed, f"{name}.W_dec", sample_ND)
    if is_autoencoder(sample_ND, target_NO):
        return {"W_enc": W_dec.clone(), "W_dec": W_dec}
    W_enc = _unit_rows(dims.d_sae, dims.d_in, seed, f"{name}.W_enc", sample_ND)
    return {"W_enc": W_enc, "W_dec": W_dec}


def with_encoder_norm(units: Tensors, norm: float) -> Tensors:
    """Unit dictionaries with rows of W_enc of that norm: the shorter, the further a step turns
    them, and the first reconstructions do not overshoot
    (DECISIONS.md, "TopK and BatchTopK start with a short encoder")."""
    return {**units, "W_enc": units["W_enc"] * norm}


def centre_biases(
    sample_ND: Tensor, target_NO: Tensor, kind: Literal["mean", "geometric_median"]
) -> Tensors:
    """b_dec at the target's centre; and b_pre at the input's, where that is another source."""
    b_dec = centre_of(target_NO, kind)
    if is_autoencoder(sample_ND, target_NO):
        return {"b_dec": b_dec}
    return {"b_dec": b_dec, "b_pre": centre_of(sample_ND, kind)}


def selecting_start(
    spec: TopKSpec | BatchTopKSpec,
    dims: Dimensions,
    sample_ND: Tensor,
    target_NO: Tensor,
    seed: int,
) -> tuple[Tensors, Tensors]:
    """The TopK family's start: random rows for decoder and encoder, alike in direction in an
    autoencoder, the decoder's of norm 1, the encoder's of norm `encoder_norm`; biases at the
    sample's centres. State: the sample's `variance`.

    Raises DataError for a sample without variance.
    """
    units = unit_dictionaries(dims, sample_ND, target_NO, seed, spec.name)
    params = {
        **with_encoder_norm(units, spec.encoder_norm),
        **centre_biases(sample_ND, target_NO, spec.b_dec_init),
        "b_enc": sample_ND.new_zeros(dims.d_sae),
    }
    return params, {"variance": sample_variance(target_NO)}


def sample_variance(target_NO: Tensor) -> Tensor:
    """Mean over rows of |y - mean|^2. Raises DataError where that is zero or not finite."""
    variance = (target_NO - target_NO.mean(dim=0)).square().sum(dim=1).mean()
    if not bool(variance > 0) or not bool(torch.isfinite(variance)):
        raise DataError(
            f"the variance of the initial sample is {float(variance)}",
            remedy="give rows that differ and are finite",
        )
    return variance


def input_bias(params: Tensors) -> Tensor:
    """What is subtracted from the input [D]: b_pre where there is one, else b_dec."""
    return params.get("b_pre", params["b_dec"])


def _unit_rows(rows: int, width: int, seed: int, purpose: str, like: Tensor) -> Tensor:
    draws = generator(seed, 0, purpose)
    drawn = torch.randn(rows, width, generator=draws, dtype=torch.float32)
    return renormalise_rows_(drawn.to(like))
