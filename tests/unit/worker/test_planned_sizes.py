"""Plans know sizes by their numbers, since control has no torch: they are those of the code."""

from __future__ import annotations

from saeserve.core.architectures import jumprelu, topk
from saeserve.core.export import fold
from saeserve.core.ops import sparse
from saeserve.core.specs import holdings
from saeserve.core.training import starting
from saeserve.worker.runners import datasets


def test_planned_sizes_are_those_of_the_code() -> None:
    assert holdings.SAMPLE_ROWS == topk.SAMPLE_ROWS
    assert holdings.QUANTILE_BLOCK == jumprelu.QUANTILE_BLOCK
    assert holdings.L0_ROWS == starting.L0_ROWS
    assert vars(fold)["_BLOCK_ELEMENTS"] == holdings.FOLD_ELEMENTS
    assert holdings.EVALUATION_BYTES == sparse.BLOCK_BYTES
    assert vars(datasets)["_ROWS_A_BATCH"] == holdings.EVALUATION_ROWS
