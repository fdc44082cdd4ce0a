"""SAELens and dictionary_learning behind one small interface; runs in .venv-peers.

Each peer runs with its own defaults, or with our learning rate, warm-up and decay in their place;
nothing else is changed. Rows come in the scale that the peer documents: as they are for SAELens,
divided by √E‖x‖² for dictionary_learning (its `normalize_activations`), whose biases are scaled
back before evaluation as its own `trainSAE` does. Features come from the form that each peer
exports for inference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

# The peers are installed in .venv-peers alone; their stubs are in typings/.
from dictionary_learning.trainers import (  # pyright: ignore[reportMissingModuleSource]
    BatchTopKTrainer,
    TopKTrainer,
)
from dictionary_learning.trainers.matryoshka_batch_top_k import (  # pyright: ignore[reportMissingModuleSource]
    MatryoshkaBatchTopKTrainer,
)
from sae_lens import (  # pyright: ignore[reportMissingModuleSource]
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
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

from saeserve.core.evaluation.ground_truth import Dictionary

Architecture = Literal["topk", "batchtopk", "matryoshka"]
LEARNED_WIDTHS = (1 / 32, 1 / 8, 1 / 2, 1)
"""SAELens has no default widths; these are those of its SynthSAEBench runs, relative to d_sae."""
GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2 + 1 / 32)
"""dictionary_learning's documented groups."""


@dataclass(frozen=True)
class Schedule:
    """A learning rate, reached after `warmup_steps`, falling to zero over `decay_steps`."""

    lr: float
    warmup_steps: int
    decay_steps: int


@dataclass(frozen=True)
class PeerSetting:
    """What a peer is asked to train."""

    architecture: Architecture
    d: int
    d_sae: int
    k: int
    steps: int
    batch_size: int
    seed: int
    root_mean_square: float
    """√E‖x‖² of the rows."""
    schedule: Schedule | None
    """None keeps the peer's own."""


class PeerRun(Protocol):
    """A training run of a peer."""

    def step(self, x_BD: Tensor) -> None:
        """Train on one batch."""
        ...

    def finish(self) -> Dictionary:
        """The trained dictionary in its inference form; training is over."""
        ...


class SaeLensRun:
    """SAELens: its trainer, then its saved inference model."""

    def __init__(self, setting: PeerSetting) -> None:
        torch.default_generator.manual_seed(setting.seed)  # SAELens takes no seed
        self._sae = _sae_lens_model(setting)
        cfg = _sae_lens_trainer(setting)
        self._trainer = SAETrainer(cfg, self._sae, data_provider=iter(()))

    def step(self, x_BD: Tensor) -> None:
        self._trainer.step(x_BD)
        self._trainer.n_training_steps += 1

    def finish(self) -> Dictionary:
        with tempfile.TemporaryDirectory() as folder:
            self._sae.save_inference_model(folder)
            sae = SAE.load_from_disk(folder)
        return Dictionary(sae.W_dec.detach(), sae.encode, sae.decode)


class DictionaryLearningRun:
    """dictionary_learning: its trainer's update, then its autoencoder."""

    def __init__(self, setting: PeerSetting) -> None:
        self._scale = setting.root_mean_square
        self._trainer = _dictionary_learning_trainer(setting)
        self._threshold = setting.architecture != "topk"
        self._done = 0

    def step(self, x_BD: Tensor) -> None:
        self._trainer.update(self._done, x_BD / self._scale)
        self._done += 1

    def finish(self) -> Dictionary:
        ae = self._trainer.ae
        ae.scale_biases(self._scale)
        weights = ae.state_dict()
        rows_FD = weights["W_dec"] if "W_dec" in weights else weights["decoder.weight"].T
        return Dictionary(
            rows_FD.detach(), lambda x: ae.encode(x, use_threshold=self._threshold), ae.decode
        )


PEERS: dict[str, Callable[[PeerSetting], PeerRun]] = {
    "SAELens": SaeLensRun,
    "dictionary_learning": DictionaryLearningRun,
}


def _sae_lens_model(setting: PeerSetting) -> TrainingSAE:
    d, d_sae, k = setting.d, setting.d_sae, setting.k
    if setting.architecture == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=d_sae, k=k))
    if setting.architecture == "batchtopk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=d, d_sae=d_sae, k=k))
    cfg = MatryoshkaBatchTopKTrainingSAEConfig(
        d_in=d,
        d_sae=d_sae,
        k=k,
        matryoshka_widths=[int(share * d_sae) for share in LEARNED_WIDTHS],
        use_matryoshka_aux_loss=True,
    )
    return MatryoshkaBatchTopKTrainingSAE(cfg)


def _sae_lens_trainer(setting: PeerSetting) -> SAETrainerConfig:
    samples, batch_size = setting.steps * setting.batch_size, setting.batch_size
    schedule = setting.schedule
    if schedule is None:
        # lr_end is what SAELens's own runners make of lr; a constant schedule never reaches it.
        return SAETrainerConfig(
            total_training_samples=samples, train_batch_size_samples=batch_size, lr_end=3e-5
        )
    return SAETrainerConfig(
        total_training_samples=samples,
        train_batch_size_samples=batch_size,
        lr=schedule.lr,
        lr_end=schedule.lr / 10,
        lr_warm_up_steps=schedule.warmup_steps,
        lr_decay_steps=schedule.decay_steps,
    )


def _dictionary_learning_trainer(
    setting: PeerSetting,
) -> TopKTrainer | MatryoshkaBatchTopKTrainer:
    schedule = setting.schedule
    # Its 1,000 steps of warm-up and before the threshold's average are for longer runs: the one
    # would be refused, the other would leave no threshold at all.
    lr, warmup, decay = None, 1000 if setting.steps > 1000 else setting.steps // 10, None
    threshold = min(1000, setting.steps // 2)
    if schedule is not None:
        lr, warmup = schedule.lr, schedule.warmup_steps
        decay = setting.steps - schedule.decay_steps if schedule.decay_steps else None
    if setting.architecture == "matryoshka":
        return MatryoshkaBatchTopKTrainer(
            steps=setting.steps,
            activation_dim=setting.d,
            dict_size=setting.d_sae,
            k=setting.k,
            layer=0,
            lm_name="bench",
            group_fractions=list(GROUPS),
            lr=lr,
            warmup_steps=warmup,
            decay_start=decay,
            threshold_start_step=threshold,
            seed=setting.seed,
            device="cpu",
        )
    kind = TopKTrainer if setting.architecture == "topk" else BatchTopKTrainer
    return kind(
        steps=setting.steps,
        activation_dim=setting.d,
        dict_size=setting.d_sae,
        k=setting.k,
        layer=0,
        lm_name="bench",
        lr=lr,
        warmup_steps=warmup,
        decay_start=decay,
        threshold_start_step=threshold,
        seed=setting.seed,
        device="cpu",
    )
