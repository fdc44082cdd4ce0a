"""Latents whose decoder rows point the same way, and tokens whose logits a latent moves.

Shape suffixes: C latents of a block, F d_sae, D d_out, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from saeserve.core.features.writer import RankedRows

NEIGHBOURS = 16
LOGITS = 10
_BLOCK_VALUES = 1 << 25
"""Cosines or logits held at a time: 128 MiB."""

Moved = Callable[[], object]
"""Called after each block; may raise, to stop."""


def decoder_neighbours(W_dec_FD: Tensor, moved: Moved, count: int = NEIGHBOURS) -> RankedRows:
    """The latents of largest decoder cosine of each latent, itself left out; `count`, or one less
    than there are. A row of zeros has cosine 0 with all."""
    unit_FD = torch.nn.functional.normalize(W_dec_FD.float(), dim=1)
    count = min(count, len(unit_FD) - 1)
    ids: list[Tensor] = []
    cosines: list[Tensor] = []
    for rows in _blocks(len(unit_FD), len(unit_FD)):
        cosine_CF = unit_FD[rows] @ unit_FD.T
        own_C = torch.arange(rows.start, rows.stop, device=cosine_CF.device)
        cosine_CF.scatter_(1, own_C[:, None], -torch.inf)
        best = cosine_CF.topk(count, dim=1)
        ids.append(best.indices.cpu())
        cosines.append(best.values.cpu())
        moved()
    return _ranked(ids, cosines)


def moved_logits(
    W_dec_FD: Tensor, unembedding_VD: Tensor, moved: Moved, count: int = LOGITS
) -> RankedRows:
    """Tokens whose logits a latent's decoder row adds most to, and takes most from; what it adds
    to all tokens alike is left out, for it changes no probability."""
    count = min(count, len(unembedding_VD))
    centred_VD = unembedding_VD.float() - unembedding_VD.float().mean(0)
    ids: list[Tensor] = []
    amounts: list[Tensor] = []
    for rows in _blocks(len(W_dec_FD), len(centred_VD)):
        logit_CV = W_dec_FD[rows].float() @ centred_VD.T
        ends = [logit_CV.topk(count, dim=1, largest=largest) for largest in (True, False)]
        ids.append(torch.stack([end.indices for end in ends], 1).cpu())
        amounts.append(torch.stack([end.values for end in ends], 1).cpu())
        moved()
    return _ranked(ids, amounts)


def _blocks(rows: int, width: int) -> Iterator[slice]:
    size = max(1, _BLOCK_VALUES // width)
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


def _ranked(ids: list[Tensor], amounts: list[Tensor]) -> RankedRows:
    return RankedRows(torch.cat(ids).numpy().astype(np.int32), torch.cat(amounts).numpy())
