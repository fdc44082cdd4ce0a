"""Our step against torch.optim.Adam."""

from __future__ import annotations

import torch
from bench.gpu.budgets.counting import Counting
from torch import Tensor

from saeserve.core.ops.adam import AdamSettings, Moments, adam_step_

SETTINGS = AdamSettings(beta1=0.9, beta2=0.99, eps=1e-6)


def gradient(step: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def test_it_is_adam_with_bias_correction() -> None:
    params = {"W": gradient(100, 4, 3), "b": gradient(101, 4)}
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    reference = torch.optim.Adam(leaves.values(), betas=(0.9, 0.99), eps=1e-6)
    moments = Moments.zeros(params)
    for step in range(5):
        rate = 0.1 / (step + 1)
        grads = {name: gradient(step, *value.shape) for name, value in params.items()}
        reference.param_groups[0]["lr"] = rate
        for name, leaf in leaves.items():
            leaf.grad = grads[name].clone()
        # torch leaves the closure's type open.
        reference.step()  # pyright: ignore[reportUnknownMemberType]
        adam_step_(params, grads, moments, SETTINGS, lr=rate, step=step)
        for name, value in params.items():
            torch.testing.assert_close(value, leaves[name].detach(), rtol=1e-12, atol=1e-14)


def test_on_a_device_the_host_waits_for_nothing() -> None:
    params = {name: torch.empty(4, 3, device="meta") for name in ("V", "W")}
    grads, moments = dict(params), Moments.zeros(params)
    with Counting(1) as counting:
        adam_step_(params, grads, moments, SETTINGS, lr=0.1, step=3)
    assert not counting.counts.waits
