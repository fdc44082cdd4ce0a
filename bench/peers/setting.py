"""What a peer is asked to train, and what a run of it can do.

Each peer runs with its own defaults, or with our learning rate, warm-up and decay in their place;
nothing else is changed but what PeerSetting names. Rows come in the scale that the peer documents:
as they are for SAELens and sparsify, divided by √E‖x‖² for dictionary_learning (its
`normalize_activations`), whose biases are scaled back before evaluation as its own `trainSAE` does.
Features come from the form that each peer exports for inference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from bench.planted.recovery import Dictionary
from torch import Tensor

Architecture = Literal["topk", "batchtopk", "matryoshka", "jumprelu", "relu", "gated"]
"""ReLU and gated have no peer here."""
LEARNED_WIDTHS = (1 / 32, 1 / 8, 1 / 2, 1)
"""SAELens has no default widths; these are those of its SynthSAEBench runs, relative to d_sae."""


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
    """Latents a row; for JumpReLU the L0 that is aimed for, where the peer can aim."""
    steps: int
    batch_size: int
    seed: int
    root_mean_square: float
    """√E‖x‖² of the rows."""
    schedule: Schedule | None
    """None keeps the peer's own."""
    autocast: bool = False
    """The peer's own bfloat16 autocast, where it has one on the CPU."""
    dead_steps: int | None = None
    """Steps without firing after which a latent is dead; None keeps the peer's own."""
    start: Path | None = None
    """A `Start` of JumpReLU, in place of the peer's initialisation."""
    device: str = "cpu"


class PeerRun(Protocol):
    """A training run of a peer."""

    def step(self, x_BD: Tensor) -> None:
        """Train on one batch."""
        ...

    def finish(self) -> Dictionary:
        """The trained dictionary in its inference form; training is over."""
        ...


@dataclass(frozen=True)
class Start:
    """A JumpReLU SAE without b_dec in its input, from which several libraries go on."""

    W_enc_FD: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor
    threshold_F: Tensor

    def save(self, path: Path) -> None:
        """Write what `load` reads."""
        torch.save(vars(self), path)

    @classmethod
    def load(cls, path: Path) -> Start:
        """Read what `save` wrote."""
        return cls(**torch.load(path))

    def with_unit_rows(self) -> Start:
        """The same function with decoder rows of norm 1."""
        norm_F = self.W_dec_FD.square().sum(dim=1).sqrt()
        return Start(
            self.W_enc_FD * norm_F[:, None],
            self.b_enc_F * norm_F,
            self.W_dec_FD / norm_F[:, None],
            self.b_dec_D,
            self.threshold_F * norm_F,
        )
