"""Random draws keyed by (seed, step, purpose), so that no draw depends on what came before it."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose at one step.

    Draws are made on the CPU and moved, so that every device sees the same numbers.
    """
    key = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
