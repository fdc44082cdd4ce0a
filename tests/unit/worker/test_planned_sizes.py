"""Plans know sizes by their numbers, since control has no torch: they are those of the code."""

from __future__ import annotations

from saeserve.core.data.staged import BLOCKS_AHEAD, STAGED_BLOCKS
from saeserve.core.data.stored import SENT_BYTES
from saeserve.core.export import fold
from saeserve.core.ops import sparse
from saeserve.core.planning import host_tensors, tensors
from saeserve.core.training import starting
from saeserve.worker.runners import datasets


def test_planned_sizes_are_those_of_the_code() -> None:
    assert (tensors.BLOCKS_AHEAD, host_tensors.STAGED_BLOCKS) == (BLOCKS_AHEAD, STAGED_BLOCKS)
    assert host_tensors.SENT_BYTES == SENT_BYTES
    assert tensors.L0_ROWS == starting.L0_ROWS
    assert vars(fold)["_BLOCK_ELEMENTS"] == tensors.FOLD_ELEMENTS
    assert tensors.EVALUATION_BYTES == sparse.BLOCK_BYTES
    assert vars(datasets)["_ROWS_A_BATCH"] == tensors.EVALUATION_ROWS
