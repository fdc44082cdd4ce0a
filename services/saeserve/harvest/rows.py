"""One batch of sequences through the model, as rows of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saeserve.core.data.tensor_file import STORAGE
from saeserve.core.data.writer import RowBlock
from saeserve.core.specs.jobs import StorageType
from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import DataError
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.sequences import TokenSequence, pad
from saeserve.harvest.tokenizer import Tokens


def forward_rows(
    model: LanguageModel, batch: Sequence[TokenSequence], sites: Sequence[SiteSpec]
) -> RowBlock:
    """The activations of a batch, sequence by sequence, at the positions that are kept."""
    tokens_ST = pad(sequence.tokens for sequence in batch)
    captured = model.capture(tokens_ST, sites)
    mask_ST = _mask(batch, tokens_ST).to(model.device)
    return RowBlock(
        tensors={source: x_STD[mask_ST].cpu() for source, x_STD in captured.items()},
        document=_column([s.documents[s.kept] for s in batch]),
        sequence=_column([np.full(s.rows, s.index) for s in batch]),
        position=_column([np.flatnonzero(s.kept) for s in batch]),
        token_id=_column([s.tokens[s.kept] for s in batch]),
    )


def _mask(batch: Sequence[TokenSequence], tokens_ST: Tensor) -> Tensor:
    """bool [S, T]; padding is never kept."""
    mask_ST = torch.zeros(tokens_ST.shape, dtype=torch.bool)
    for row, sequence in enumerate(batch):
        mask_ST[row, : len(sequence.kept)] = torch.as_tensor(sequence.kept)
    return mask_ST


def drop_first(block: RowBlock, rows: int) -> RowBlock:
    """`block` without its first `rows` rows, which an earlier run has stored."""
    if rows <= 0:
        return block
    return RowBlock(
        tensors={source: x_ND[rows:] for source, x_ND in block.tensors.items()},
        document=block.document[rows:],
        sequence=block.sequence[rows:],
        position=block.position[rows:],
        token_id=block.token_id[rows:],
    )


def check_storable(block: RowBlock, dtype: StorageType, origins: Sequence[str]) -> None:
    """Raise DataError, naming document and position, for values that `dtype` cannot hold.

    `origins` are the documents' names by index.
    """
    for source, x_ND in block.tensors.items():
        if bool(torch.isfinite(x_ND.to(STORAGE[dtype]).sum(dtype=torch.float64))):
            continue
        raise _not_storable(block, source, x_ND, dtype, origins)


def _not_storable(
    block: RowBlock, source: str, x_ND: Tensor, dtype: StorageType, origins: Sequence[str]
) -> DataError:
    row, column = (int(i) for i in (~torch.isfinite(x_ND.to(STORAGE[dtype]))).nonzero()[0])
    value = float(x_ND[row, column])
    origin = origins[int(block.document[row])]
    finite = np.isfinite(value)
    return DataError(
        f"{source}, dimension {column}, is {value:g} in document {origin}, sequence "
        f"{int(block.sequence[row])}, position {int(block.position[row])}"
        + (f": beyond {dtype}'s range" if finite else ""),
        remedy="set dtype = bfloat16 or float32" if finite else "set compute_dtype = float32",
    )


def _column(parts: list[np.ndarray[tuple[int, ...], np.dtype[np.integer]]]) -> Tokens:
    return np.concatenate(parts).astype(np.int32)
