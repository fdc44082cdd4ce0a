"""What collecting takes of memory and disk, before it runs. Needs no torch."""

from __future__ import annotations

from saeserve.core.features.blocks import BLOCK_ROWS
from saeserve.core.features.state import CollectSettings, state_bytes
from saeserve.core.labels.proposing import PATTERNS

_VOCABULARY = 262_144
"""Tokens of the largest common tokenizers; the data set does not say how many its own has."""
_ENTRY_BYTES = 48
"""A code in a block: as it comes, joined, sorted, its index, and its place."""
_TOKEN_BYTES = 12
"""A token in memory: as it came, joined, and as it is written."""
_PATTERN_BYTES = 150
"""A pattern that may label a feature, while it is counted: 142 measured."""
_EXTRA_BYTES = 8 * (16 + 2 * 10)
"""Neighbours and logits of a feature."""


def collect_bytes(
    d_sae: int, tokens: int, entries: float, model_bytes: int, *, labels: bool
) -> int:
    """Peak memory of a pass over `tokens` rows with `entries` codes each. Labels are made once the
    last block is gone."""
    state = state_bytes(CollectSettings(d_sae, _VOCABULARY))
    block = int(BLOCK_ROWS * entries * _ENTRY_BYTES)
    largest = max(block, d_sae * PATTERNS * _PATTERN_BYTES if labels else 0)
    return state + model_bytes + largest + tokens * _TOKEN_BYTES + d_sae * _EXTRA_BYTES


def bundle_bytes(d_sae: int, tokens: int) -> int:
    """Disk that the bundle and two checkpoints take at most."""
    state = state_bytes(CollectSettings(d_sae, _VOCABULARY))
    return 4 * state + 4 * tokens
