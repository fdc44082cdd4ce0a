"""What the fast forms of the TopK family make of the gradients of their two dictionaries."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from saeserve.core.architectures.auxk import Taken, where_dead
from saeserve.core.architectures.contract import Tensors
from saeserve.core.kernels.topk import auxk
from saeserve.core.kernels.topk.weights import DictionaryGradients
from saeserve.core.specs.architectures.base import AuxKSpec


def add_auxiliary(
    total: DictionaryGradients,
    spec: AuxKSpec,
    params: Tensors,
    rows: tuple[Tensor, Tensor],
    taken: Taken,
    largest: Callable[[Tensor, int], Tensor] | None = None,
) -> Tensor:
    """AuxK's term, a scalar; its gradients are added to `total`.

    `rows` are the residuals [B, O] and the centred inputs [B, D]; `largest` finds what is `taken`
    of each row. Where that is nothing the term is 0.
    """
    residual_BO, x_BD = rows
    if taken.latents == 0:
        return x_BD.new_zeros(())
    weights = (params["W_enc"], params["b_enc"], params["W_dec"])
    dead_A, alive_A = auxk.list_dead(taken.dead_F, taken.listed)
    found = auxk.auxiliary(
        residual_BO,
        x_BD,
        weights,
        (dead_A, alive_A),
        taken.latents,
        spec.auxk_coefficient,
        largest,
    )
    total.W_enc.index_add_(0, dead_A, found.W_enc_AD)
    total.b_enc.index_add_(0, dead_A, found.b_enc_A)
    total.W_dec.index_add_(0, dead_A, found.W_dec_AO)
    share = found.share if taken.listed is None else where_dead(found.share, taken.dead_F)
    return spec.auxk_coefficient * share


def to_output(gradients_NO: Tensor, rows: int, *, detach_inner: bool) -> Tensor:
    """What an addition to all prefixes' reconstructions does, [B, O], from the r_bg at b G + g of
    either reconstruction pass: the sum over the prefixes of w_g times their errors.

    That is what the first group sees, unless inner prefixes see those before them detached: then
    each r_bg has its own share and the last one's, which is to count once.
    """
    r_BGO = gradients_NO.view(rows, -1, gradients_NO.shape[1])
    groups = r_BGO.shape[1]
    if groups == 1 or not detach_inner:
        return r_BGO[:, 0]
    return r_BGO.sum(1) - (groups - 1) * r_BGO[:, -1]


def gradients_of(params: Tensors, total: DictionaryGradients, to_output_O: Tensor) -> Tensors:
    """Gradients by parameter, those of the biases included; `to_output_O` is what the
    reconstruction adds to b_dec's, which is b_pre's too where there is no b_pre."""
    # Summed over the batch before the product: one mat-vec instead of a GEMM.
    to_input_D = -(total.b_enc @ params["W_enc"])
    grads = {"W_enc": total.W_enc, "b_enc": total.b_enc, "W_dec": total.W_dec}
    if "b_pre" in params:
        return {**grads, "b_dec": to_output_O, "b_pre": to_input_D}
    return {**grads, "b_dec": to_output_O + to_input_D}
