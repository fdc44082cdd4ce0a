"""Turns stored examples into tokens, texts and activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from saeserve.core.features.packing import Examples
from saeserve.core.features.token_file import TokenFile
from saeserve.core.features.values import Context


class Texts(Protocol):
    """Gives the texts of tokens."""

    def __call__(self, tokens: set[int], /) -> Mapping[int, str]:
        """The text of each of `tokens` that is known."""
        ...


class Windows:
    """The token file of a bundle, and `sequences` [sequences, 3]."""

    def __init__(self, tokens: TokenFile, sequences: npt.NDArray[np.int64], texts: Texts) -> None:
        self._tokens = tokens
        self._sequences = sequences
        self._texts = texts

    def contexts(self, examples: Examples) -> list[Context]:
        """The windows of all examples; the texts of their tokens are looked up at once."""
        records = examples.records
        starts = (records["position"] - records["left"]).tolist()
        stops = (records["position"] + records["right"] + 1).tolist()
        windows = [self._tokens.part(a, b).tolist() for a, b in zip(starts, stops, strict=True)]
        texts = self._texts({token for window in windows for token in window})
        ends = np.cumsum(records["used"], dtype=np.int64)
        return [
            self._context(record, window, texts, _part(examples, int(end), int(record["used"])))
            for record, window, end in zip(records, windows, ends, strict=True)
        ]

    def _context(
        self, record: np.void, window: list[int], texts: Mapping[int, str], entries: Examples
    ) -> Context:
        left, position = int(record["left"]), int(record["position"])
        values = np.zeros(len(window), np.float32)
        values[entries.offsets.astype(np.int64) + left] = entries.activations
        row = int(np.searchsorted(self._sequences[:, 0], position, "right")) - 1
        return Context(
            position=position,
            document=int(self._sequences[row, 1]),
            sequence=int(self._sequences[row, 2]),
            value=float(record["value"]),
            peak=left,
            tokens=tuple(window),
            texts=tuple(texts.get(token, "") for token in window),
            activations=tuple(values.tolist()),
        )


def _part(examples: Examples, end: int, used: int) -> Examples:
    """The entries of one example."""
    own = slice(end - used, end)
    return Examples(examples.records, examples.offsets[own], examples.activations[own])
