"""dictionary_learning: its trainers' update, then their autoencoders."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from bench.peers.setting import PeerSetting, Start
from bench.planted.recovery import Dictionary

# The peers are installed in .venv-peers alone; their stubs are in typings/.
from dictionary_learning.trainers import (  # pyright: ignore[reportMissingModuleSource]
    BatchTopKTrainer,
    JumpReluTrainer,
    TopKTrainer,
)
from dictionary_learning.trainers.matryoshka_batch_top_k import (  # pyright: ignore[reportMissingModuleSource]
    MatryoshkaBatchTopKTrainer,
)
from torch import Tensor

if TYPE_CHECKING:
    # Of the stubs alone.
    from dictionary_learning.trainers import (  # pyright: ignore[reportMissingModuleSource]
        Autoencoder,
        Trainer,
    )

GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2 + 1 / 32)
"""dictionary_learning's documented groups."""
LONG_RUN = 1000
"""Its steps of warm-up, and before the threshold's average starts, are for runs longer than this:
in others the one would be refused, the other would leave no threshold at all."""


class DictionaryLearningRun:
    """A training run."""

    def __init__(self, setting: PeerSetting) -> None:
        self._scale = setting.root_mean_square
        self._architecture = setting.architecture
        self._autocast, self._device = setting.autocast, setting.device
        self._trainer = _trainer(setting)
        if setting.start is not None:
            _continue(self._trainer.ae, Start.load(setting.start), self._scale)
        if setting.dead_steps is not None:
            self._trainer.dead_feature_threshold = setting.dead_steps * setting.batch_size
        self._done = 0

    def step(self, x_BD: Tensor) -> None:
        with self._precision():
            self._trainer.update(self._done, x_BD / self._scale)
        self._done += 1

    def _precision(self) -> AbstractContextManager[object]:
        """Autocast around the update, as its `trainSAE` has it for whoever asks for bfloat16."""
        if not self._autocast:
            return nullcontext()
        return torch.autocast(torch.device(self._device).type, torch.bfloat16)

    def finish(self) -> Dictionary:
        ae = self._trainer.ae
        ae.scale_biases(self._scale)
        weights = ae.state_dict()
        rows_FD = weights["W_dec"] if "W_dec" in weights else weights["decoder.weight"].T
        return Dictionary(rows_FD.detach(), self._encode, ae.decode)

    def _encode(self, x_BD: Tensor) -> Tensor:
        if self._architecture == "jumprelu":
            return self._trainer.ae.encode(x_BD)
        return self._trainer.ae.encode(x_BD, use_threshold=self._architecture != "topk")


def _trainer(setting: PeerSetting) -> Trainer:
    common = _common(setting)
    if setting.architecture == "jumprelu":
        warmup = max(1, common["warmup_steps"])
        return JumpReluTrainer(**common, target_l0=setting.k, sparsity_warmup_steps=warmup)
    threshold = min(LONG_RUN, setting.steps // 2)
    common |= {"k": setting.k, "threshold_start_step": threshold}
    if setting.architecture == "matryoshka":
        return MatryoshkaBatchTopKTrainer(**common, group_fractions=list(GROUPS))
    kind = TopKTrainer if setting.architecture == "topk" else BatchTopKTrainer
    return kind(**common)


def _common(setting: PeerSetting) -> dict[str, Any]:
    warmup = LONG_RUN if setting.steps > LONG_RUN else setting.steps // 10
    found: dict[str, Any] = {
        "steps": setting.steps,
        "activation_dim": setting.d,
        "dict_size": setting.d_sae,
        "layer": 0,
        "lm_name": "bench",
        "warmup_steps": warmup,
        "seed": setting.seed,
        "device": setting.device,
    }
    schedule = setting.schedule
    if schedule is not None:
        decay = setting.steps - schedule.decay_steps if schedule.decay_steps else None
        found |= {"lr": schedule.lr, "warmup_steps": schedule.warmup_steps, "decay_start": decay}
    return found


def _continue(ae: Autoencoder, start: Start, scale: float) -> None:
    unit = start.with_unit_rows()
    known = {
        "W_enc": unit.W_enc_FD.T.contiguous(),
        "b_enc": unit.b_enc_F,
        "W_dec": unit.W_dec_FD,
        "b_dec": unit.b_dec_D,
        "threshold": unit.threshold_F,
    }
    ae.load_state_dict(known)
    ae.scale_biases(1 / scale)
