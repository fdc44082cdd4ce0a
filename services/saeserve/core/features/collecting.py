"""A pass over stored rows that can stop after each block and go on from what it saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from saeserve.core.features import loops, reference
from saeserve.core.features.layout import TokenLayout
from saeserve.core.features.rows import RowSource, blocks
from saeserve.core.features.state import (
    Collected,
    CollectSettings,
    lowest_exponent_for,
    new_state,
)
from saeserve.core.kernels.compiled import available
from saeserve.errors import CheckpointError

_STATE, _HEADER = "state.safetensors", "header.json"
_RAREST = 1e-6
"""Share of rows that a latent which the model never saw firing is taken to fire on."""


@dataclass
class Collecting:
    """Where a pass is: its state, its tokens, and the rows that are behind it."""

    source: RowSource
    state: Collected
    rows_done: int = 0
    rows_kept: int = 0

    def __post_init__(self) -> None:
        self.layout = TokenLayout()
        self._weight_F = token_weights(self.source)

    def run(self) -> Iterator[int]:
        """Go on to the end, one block at a time; yields the rows that are done.

        Raises DataError for rows and codes that cannot be used.
        """
        add_block = loops.add_block if available() else reference.add_block
        for found in blocks(self.source, self.layout, self.rows_done):
            found.block.check(self.state.settings)
            add_block(self.state, found.block.without_zeros(), self._weight_F)
            self.rows_done, self.rows_kept = found.rows_done, self.rows_kept + found.kept
            yield self.rows_done

    def tokens(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """The token file and the sequences of what is done: see `schema`. The layout may know rows
        of the sequence after it."""
        tokens, sequences = self.layout.tokens, self.layout.sequences
        end = self.layout.end_of(self.rows_done)
        return tokens[:end], sequences[sequences[:, 0] < end]

    def save(self, folder: Path) -> None:
        """Write all that `resume` needs into an empty folder."""
        arrays = {n: np.ascontiguousarray(a) for n, a in self.state.arrays().items()}
        (folder / _STATE).write_bytes(safetensors.numpy.save(arrays))
        header = {"settings": asdict(self.state.settings), "rows_done": self.rows_done}
        header["rows_kept"] = self.rows_kept
        (folder / _HEADER).write_text(json.dumps(header))


def start(source: RowSource, vocabulary: int, seed: int) -> Collecting:
    """A pass that has seen no row."""
    return Collecting(source, new_state(settings_for(source, vocabulary, seed)))


def resume(source: RowSource, vocabulary: int, seed: int, folder: Path) -> Collecting:
    """The pass that was saved in `folder`. Raises CheckpointError where it is damaged, or of
    another model, seed or release."""
    settings = settings_for(source, vocabulary, seed)
    try:
        header = json.loads((folder / _HEADER).read_bytes())
        arrays = safetensors.numpy.load((folder / _STATE).read_bytes())
        if CollectSettings(**header["settings"]) != settings:
            raise _damaged(folder)
        state = new_state(settings)
        for name, array in state.arrays().items():
            array[:] = arrays[name]
        return Collecting(source, state, header["rows_done"], header["rows_kept"])
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise _damaged(folder) from error


def settings_for(source: RowSource, vocabulary: int, seed: int) -> CollectSettings:
    """Sizes of a pass; the histogram begins where the model's known maximum has it end."""
    largest = float(source.model.maximum.max())
    lowest = lowest_exponent_for(largest)
    return CollectSettings(source.model.config.d_sae, vocabulary, seed=seed, lowest_exponent=lowest)


def token_weights(source: RowSource) -> npt.NDArray[np.float32]:
    """What activations are multiplied with to rank the features of a token, float32 [d_sae]:
    log(1 / frequency) / maximum, of the held-out rows that the model was judged on.

    The pass's own figures are not used: they are known only when it ends, and a weight that
    changed on the way would make the outcome depend on the order of rows.
    """
    maximum_F = source.model.maximum.cpu().double().numpy()
    frequency_F = source.model.frequency.cpu().double().numpy()
    known = maximum_F[maximum_F > 0]
    if not known.size:
        return np.ones(len(maximum_F), np.float32)
    scale_F = np.where(maximum_F > 0, maximum_F, np.median(known))
    rarity_F = -np.log(np.clip(frequency_F, _RAREST, 1 - _RAREST))
    return (rarity_F / scale_F).astype(np.float32)


def _damaged(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {folder.name} does not hold this pass",
        remedy="submit the job again; the data set and the model are unchanged",
    )
