"""JumpReLU and its straight-through derivatives.

Source: Anthropic, Circuits Updates, January 2025; after Rajamanoharan et al. 2024 (2407.14435).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from saeserve.core.architectures.autograd import Saved, apply


class _Band(Saved, Protocol):
    bandwidth: float
    to_input: bool
    chain: bool


class _JumpRelu(torch.autograd.Function):
    """f = h where h > exp(t), else 0."""

    @staticmethod
    def forward(
        ctx: _Band,
        h_BF: Tensor,
        t_F: Tensor,
        bandwidth: float,
        to_input: bool,
        chain: bool,
    ) -> Tensor:
        threshold_F = t_F.exp()
        ctx.save_for_backward(h_BF, threshold_F)
        ctx.bandwidth, ctx.to_input, ctx.chain = bandwidth, to_input, chain
        return torch.where(h_BF > threshold_F, h_BF, 0.0)

    @staticmethod
    def backward(ctx: _Band, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (grad_BF,) = grads
        h_BF, threshold_F = ctx.saved_tensors
        in_band_BF = (h_BF - threshold_F).abs() < ctx.bandwidth / 2
        banded_BF = torch.where(in_band_BF, grad_BF, 0.0)
        slope_F = threshold_F / ctx.bandwidth
        to_h_BF = torch.where(h_BF > threshold_F, grad_BF, 0.0)
        if ctx.to_input:
            to_h_BF = to_h_BF + banded_BF * slope_F
        to_t_F = -slope_F * banded_BF.sum(0)
        return to_h_BF, to_t_F * threshold_F if ctx.chain else to_t_F, None, None, None


def jump_relu(
    h_BF: Tensor, t_F: Tensor, bandwidth: float, *, to_input: bool = False, chain: bool = False
) -> Tensor:
    """JumpReLU with threshold exp(t), whose derivatives are

    df/dh = 1[h > exp(t)], and df/dt = -exp(t) / bandwidth where |h - exp(t)| < bandwidth / 2.
    `to_input` adds exp(t) / bandwidth in the band to df/dh (SAELens's reading). `chain` takes that
    df/dt for the derivative by the threshold (arXiv 2407.14435, equation 11), so that t gets
    exp(t) times as much.
    """
    return apply(_JumpRelu, h_BF, t_F, bandwidth, to_input, chain)


class _Step(torch.autograd.Function):
    """1 where h > exp(t), else 0."""

    @staticmethod
    def forward(ctx: _Band, h_BF: Tensor, t_F: Tensor, bandwidth: float) -> Tensor:
        threshold_F = t_F.exp()
        ctx.save_for_backward(h_BF, threshold_F)
        ctx.bandwidth = bandwidth
        return (h_BF > threshold_F).to(h_BF)

    @staticmethod
    def backward(ctx: _Band, *grads: Tensor) -> tuple[None, Tensor, None]:
        (grad_BF,) = grads
        h_BF, threshold_F = ctx.saved_tensors
        in_band_BF = (h_BF - threshold_F).abs() < ctx.bandwidth / 2
        banded_F = torch.where(in_band_BF, grad_BF, 0.0).sum(0)
        return None, -threshold_F / ctx.bandwidth * banded_F, None


def step(h_BF: Tensor, t_F: Tensor, bandwidth: float) -> Tensor:
    """1[h > exp(t)], whose derivative by the threshold exp(t) is -1 / bandwidth where
    |h - exp(t)| < bandwidth / 2, on both sides of it (arXiv 2407.14435, equation 12).

    h is the pre-activation, never the JumpReLU of it: a latent just below its threshold has to be
    seen too. h itself gets no gradient.
    """
    return apply(_Step, h_BF, t_F, bandwidth)


class _LowPrecisionLinear(torch.autograd.Function):
    """x W^T + b with its three GEMMs in a lower type; values and gradients stay in the masters'."""

    @staticmethod
    def forward(
        ctx: Saved,
        x_BD: Tensor,
        W_FD: Tensor,
        b_F: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        low_x, low_W = x_BD.to(dtype), W_FD.to(dtype)
        ctx.save_for_backward(low_x, low_W)
        return (low_x @ low_W.T).to(W_FD.dtype) + b_F

    @staticmethod
    def backward(ctx: Saved, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        (grad_BF,) = grads
        low_x, low_W = ctx.saved_tensors
        low_grad = grad_BF.to(low_x.dtype)
        to_x = (low_grad @ low_W).to(grad_BF.dtype) if ctx.needs_input_grad[0] else None
        to_W = (low_grad.T @ low_x).to(grad_BF.dtype)
        return to_x, to_W, grad_BF.sum(0), None


def linear(x_BD: Tensor, W_FD: Tensor, b_F: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x W^T + b, its GEMMs in `dtype`; float32 stands for the parameters' own type.

    Without b a product alone.
    """
    if dtype in (torch.float32, W_FD.dtype):
        return x_BD @ W_FD.T if b_F is None else torch.addmm(b_F, x_BD, W_FD.T)
    b_F = W_FD.new_zeros(W_FD.shape[0]) if b_F is None else b_F
    return apply(_LowPrecisionLinear, x_BD, W_FD, b_F, dtype)
