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
from saeserve.harvest.language_model import LanguageModel, sent
from saeserve.harvest.sequences import TokenSequence, pad
from saeserve.harvest.tokenizer import Tokens


def forward_rows(
    model: LanguageModel, batch: Sequence[TokenSequence], sites: Sequence[SiteSpec]
) -> RowBlock:
    """The activations of a batch, sequence by sequence, at the positions that are kept: float32 on
    the model's device, which the host does not wait for."""
    tokens_ST = pad(sequence.tokens for sequence in batch)
    kept_N = sent(_kept(batch, tokens_ST.shape[1]), model.device)
    captured = model.capture(tokens_ST, sites)
    return RowBlock(
        tensors={s: x_STD.flatten(0, 1).index_select(0, kept_N) for s, x_STD in captured.items()},
        document=_column([s.documents[s.kept] for s in batch]),
        sequence=_column([np.full(s.rows, s.index) for s in batch]),
        position=_column([np.flatnonzero(s.kept) for s in batch]),
        token_id=_column([s.tokens[s.kept] for s in batch]),
    )


def _kept(batch: Sequence[TokenSequence], length: int) -> Tensor:
    """Places of the positions that are kept, in sequences of `length` one behind the other: int64;
    padding is never kept."""
    places = [row * length + np.flatnonzero(s.kept) for row, s in enumerate(batch)]
    return torch.as_tensor(np.concatenate(places).astype(np.int64))


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
        raise not_storable(block, source, x_ND, dtype, origins)


def not_storable(
    block: RowBlock, source: str, x_ND: Tensor, dtype: StorageType, origins: Sequence[str]
) -> DataError:
    """The error that names the first value of `x_ND`, rows of the block, that `dtype` cannot
    hold."""
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
