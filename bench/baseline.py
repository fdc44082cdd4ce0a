"""The baseline without a learned dictionary: random unit decoder rows, frozen; encoder trained.

As Korznikov et al. (arXiv 2602.14111) ask of every claim. TopK; Adam, the rate falling linearly
over the last fifth. Shape suffixes: B rows, D dimensions, F latents.
"""

from __future__ import annotations

import torch
from bench.planted.recovery import Dictionary
from torch import Tensor

from saeserve.core.data.source import ActivationSource
from saeserve.core.ops.adam import AdamSettings, Moments, adam_step_
from saeserve.core.ops.draws import generator
from saeserve.core.ops.norms import renormalise_rows_
from saeserve.core.ops.rows import Tensors
from saeserve.core.training.schedules import learning_rate

ADAM = AdamSettings(beta1=0.9, beta2=0.999, eps=1e-8)
DECAY_FRACTION = 0.2
SAMPLE_ROWS = 8192


def random_decoder(
    source: ActivationSource,
    *,
    d_sae: int,
    k: int,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> Dictionary:
    """A dictionary of `d_sae` random directions with an encoder trained to use them."""
    drawn_FD = torch.randn(d_sae, source.d, generator=generator(seed, 0, "baseline"))
    W_dec = renormalise_rows_(drawn_FD)
    params: Tensors = {
        "W_enc": W_dec.clone(),
        "b_enc": torch.zeros(d_sae),
        "b_dec": source.sample(SAMPLE_ROWS, seed).mean(dim=0),
    }
    moments = Moments.zeros(params)
    for step in range(steps):
        x_BD = source.batch(step * batch_size, batch_size)
        rate = learning_rate(step, steps, peak=lr, warmup_steps=0, decay_fraction=DECAY_FRACTION)
        gradients = _gradients(params, W_dec, x_BD, k)
        adam_step_(params, gradients, moments, ADAM, lr=rate, step=step)
    return Dictionary(
        W_dec, lambda x_BD: _encode(params, x_BD, k), lambda f_BF: f_BF @ W_dec + params["b_dec"]
    )


def _gradients(params: Tensors, W_dec: Tensor, x_BD: Tensor, k: int) -> Tensors:
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    error_BD = x_BD - _encode(leaves, x_BD, k) @ W_dec - leaves["b_dec"]
    loss = error_BD.square().sum(dim=1).mean()
    found = torch.autograd.grad(loss, list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def _encode(params: Tensors, x_BD: Tensor, k: int) -> Tensor:
    h_BF = torch.addmm(params["b_enc"], x_BD - params["b_dec"], params["W_enc"].T)
    top = h_BF.topk(k, dim=1)
    return torch.zeros_like(h_BF).scatter(1, top.indices, top.values.relu())
