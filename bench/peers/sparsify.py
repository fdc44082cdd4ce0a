"""sparsify's TopK: a step of its `Trainer.fit`, without the language model around it.

Its trainer reads activations off a model's hooks, so that its loop cannot be driven with rows of
one's own. A step here does in the same order what `fit` does for one hookpoint with the default
configuration (loss `fvu`, one micro-batch, auxk_alpha = 0): b_dec from the first batch's mean, unit
decoder rows, forward through the fused encoder, the fired latents, the average of the FVU,
backward, the projection of W_dec's gradient, schedule-free SignSGD, and the dead counters. Left
out: hooks, token masks, logging. Its autocast is for CUDA alone.
"""

from __future__ import annotations

import torch
from bench.peers.setting import PeerSetting
from bench.planted.recovery import Dictionary
from schedulefree import ScheduleFreeWrapper  # pyright: ignore[reportMissingModuleSource]

# The peers are installed in .venv-peers alone; their stubs are in typings/.
from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingModuleSource]
from sparsify.sign_sgd import SignSGD  # pyright: ignore[reportMissingModuleSource]
from torch import Tensor

MOMENTUM = 0.95


class SparsifyRun:
    """A training run with the learning rate that the library chooses by the width."""

    def __init__(self, setting: PeerSetting) -> None:
        torch.default_generator.manual_seed(setting.seed)
        config = SparseCoderConfig(num_latents=setting.d_sae, k=setting.k)
        self._sae = SparseCoder(setting.d, config, device=setting.device, dtype=torch.float32)
        lr = 5e-3 / (setting.d_sae / 2**14) ** 0.5
        groups: list[dict[str, object]] = [{"params": self._sae.parameters(), "lr": lr}]
        self._optimizer = ScheduleFreeWrapper(SignSGD(groups), momentum=MOMENTUM)
        self._optimizer.train()
        self._since_fired_F = torch.zeros(setting.d_sae, dtype=torch.long, device=setting.device)
        self._fired_F = torch.zeros(setting.d_sae, dtype=torch.bool, device=setting.device)
        self._fvu = 0.0
        self._done = 0

    def step(self, x_BD: Tensor) -> None:
        if self._done == 0:
            self._sae.b_dec.data = x_BD.mean(0)
        self._sae.set_decoder_norm_to_unit_norm()
        variance = (x_BD - x_BD.mean(0)).pow(2).sum()
        out = self._sae(x=x_BD, y=x_BD, dead_mask=None, total_variance=variance)
        self._fired_F[out.latent_indices.flatten()] = True
        self._fvu = float(out.fvu.detach())
        torch.autograd.backward(out.fvu + out.multi_topk_fvu / 8)
        self._sae.remove_gradient_parallel_to_decoder_directions()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._count(x_BD.shape[0])
        self._done += 1

    def _count(self, rows: int) -> None:
        self._since_fired_F += rows
        self._since_fired_F[self._fired_F] = 0
        self._fired_F.zero_()

    def finish(self) -> Dictionary:
        self._optimizer.eval()
        W_dec = self._sae.W_dec.detach()
        return Dictionary(W_dec, self._encode, lambda f_BF: f_BF @ W_dec + self._sae.b_dec)

    def _encode(self, x_BD: Tensor) -> Tensor:
        found = self._sae.encode(x_BD)
        f_BF = x_BD.new_zeros(x_BD.shape[0], self._sae.num_latents)
        return f_BF.scatter(1, found.top_indices, found.top_acts)
