"""Who trains what: one process of a race."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.peers.setting import Architecture

System = Literal["saeserve", "saelens", "dictionary_learning", "sparsify", "limit"]
Dtype = Literal["float32", "bfloat16"]

OURS: System = "saeserve"
LIMIT: System = "limit"
"""Not a library: the machine's own speed, measured in the same turns."""
NAMES: dict[str, str] = {
    "saeserve": "saeserve",
    "saelens": "SAELens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
}


@dataclass(frozen=True)
class Contestant:
    """A system, what it trains and for how long."""

    system: System
    architecture: Architecture
    dtype: Dtype
    """Type of the encoder GEMM."""
    d_sae: int
    k: int
    """Latents a row; for JumpReLU the L0 aimed for."""
    batch: int
    steps: int
    turn_steps: int
    """Steps of a turn; divides `steps`."""
    lr: float
    dead_steps: int | None = None
    """Steps without firing that make a latent dead; None: ten million tokens, or the peer's own."""
    start: str = ""
    """File of a `bench.peers.setting.Start`; empty for the system's initialisation."""
    target_l0: float | None = None
    """L0 that a JumpReLU is led to; ours alone has it."""
    evaluate: bool = True
    """Whether held-out figures are wanted at the end."""
    members: int = 1
    """Ours alone: SAEs that a sweep trains on the same rows, each as this contestant says."""
    as_job: bool = False
    """Whether the process has the environment of our job processes (saeserve.worker.child)."""
    services: str = ""
    """Ours alone: folder of the `saeserve` package that it trains with; empty for this one."""

    @property
    def turns(self) -> int:
        """Turns of the whole run."""
        return self.steps // self.turn_steps

    @property
    def turn_tokens(self) -> int:
        """Rows that models have been trained on in a turn: a sweep's count for every member."""
        return self.batch * self.turn_steps * self.members

    @property
    def label(self) -> str:
        """For people."""
        if self.system == LIMIT:
            return "limit"
        short = "bf16" if self.dtype == "bfloat16" else "fp32"
        many = f" x {self.members}" if self.members > 1 else ""
        return f"{NAMES[self.system]} {self.architecture} {short}{many}"

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


MOST_WARMUP_STEPS = 5
DECAY_SHARE = 0.2


def warmup_steps(steps: int) -> int:
    """Steps over which the learning rate rises."""
    return min(MOST_WARMUP_STEPS, steps // 10)


def decay_steps(steps: int) -> int:
    """Steps over which the learning rate falls to zero, for every system that takes a schedule."""
    return round(DECAY_SHARE * steps)
