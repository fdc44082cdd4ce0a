"""SAELens: its trainer's step, then its saved inference model."""

from __future__ import annotations

import math
import tempfile

import torch
from bench.peers.setting import LEARNED_WIDTHS, PeerSetting, Start
from bench.planted.recovery import Dictionary

# The peers are installed in .venv-peers alone; their stubs are in typings/.
from sae_lens import (  # pyright: ignore[reportMissingModuleSource]
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    SAETrainer,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.config import (  # pyright: ignore[reportMissingModuleSource]
    SAETrainerConfig,
)
from torch import Tensor

from saeserve.core.specs.architectures.jumprelu import JumpReluSpec

DEAD_STEPS = 1000
"""SAELens's default."""


class SaeLensRun:
    """A training run."""

    def __init__(self, setting: PeerSetting) -> None:
        torch.default_generator.manual_seed(setting.seed)  # SAELens takes no seed
        self._sae = _model(setting)
        if setting.start is not None:
            _continue(self._sae, Start.load(setting.start))
        self._trainer = SAETrainer(_config(setting), self._sae, data_provider=iter(()))

    def step(self, x_BD: Tensor) -> None:
        self._trainer.step(x_BD)
        self._trainer.n_training_steps += 1

    def finish(self) -> Dictionary:
        with tempfile.TemporaryDirectory() as folder:
            self._sae.save_inference_model(folder)
            sae = SAE.load_from_disk(folder)
        return Dictionary(sae.W_dec.detach(), sae.encode, sae.decode)


def _model(setting: PeerSetting) -> TrainingSAE:
    d, d_sae, k, device = setting.d, setting.d_sae, setting.k, setting.device
    if setting.architecture == "jumprelu":
        return JumpReLUTrainingSAE(_jumprelu(setting))
    if setting.architecture == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=d_sae, k=k, device=device))
    if setting.architecture == "batchtopk":
        return BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(d_in=d, d_sae=d_sae, k=k, device=device)
        )
    cfg = MatryoshkaBatchTopKTrainingSAEConfig(
        d_in=d,
        d_sae=d_sae,
        k=k,
        device=device,
        matryoshka_widths=[int(share * d_sae) for share in LEARNED_WIDTHS],
        use_matryoshka_aux_loss=True,
    )
    return MatryoshkaBatchTopKTrainingSAE(cfg)


def _jumprelu(setting: PeerSetting) -> JumpReLUTrainingSAEConfig:
    """The recipe of January 2025, with the constants of ours."""
    spec = JumpReluSpec()
    return JumpReLUTrainingSAEConfig(
        d_in=setting.d,
        d_sae=setting.d_sae,
        device=setting.device,
        apply_b_dec_to_input=False,
        jumprelu_sparsity_loss_mode="tanh",
        jumprelu_init_threshold=math.exp(spec.initial_log_threshold),
        jumprelu_bandwidth=spec.bandwidth,
        jumprelu_tanh_scale=spec.tanh_scale,
        jumprelu_ste_to_input=spec.ste_to_input,
        l0_coefficient=spec.sparsity_coefficient,
        l0_warm_up_steps=setting.steps,
        pre_act_loss_coefficient=spec.pre_act_coefficient,
    )


def _continue(sae: TrainingSAE, start: Start) -> None:
    known = {
        "W_enc": start.W_enc_FD.T.contiguous(),
        "b_enc": start.b_enc_F,
        "W_dec": start.W_dec_FD,
        "b_dec": start.b_dec_D,
        "threshold": start.threshold_F,
    }
    sae.load_state_dict(known)


def _config(setting: PeerSetting) -> SAETrainerConfig:
    # lr_end is what SAELens's own runners make of lr; a constant schedule never reaches it.
    lr, warmup, decay = 3e-4, 0, 0
    if (schedule := setting.schedule) is not None:
        lr, warmup, decay = schedule.lr, schedule.warmup_steps, schedule.decay_steps
    return SAETrainerConfig(
        total_training_samples=setting.steps * setting.batch_size,
        train_batch_size_samples=setting.batch_size,
        lr=lr,
        lr_end=lr / 10,
        lr_warm_up_steps=warmup,
        lr_decay_steps=decay,
        autocast=setting.autocast,
        device=setting.device,
        dead_feature_window=DEAD_STEPS if setting.dead_steps is None else setting.dead_steps,
    )
