"""Encoding at full size on the meta device: one product in float16, and nothing to wait for."""

from __future__ import annotations

import pytest
import torch
from bench.gpu.budgets.counting import Counting, Counts

from saeserve.core.formats.model import RowNorm

B = 2048
SHAPES = {"S1": (768, 24_576, 32), "S2": (4_096, 65_536, 64), "S3": (2_304, 16_384, None)}


def counted(d: int, m: int, k: int | None, norm: RowNorm) -> Counts:
    pytest.importorskip("triton", reason="Triton is not installed")
    from saeserve.core.export.on_device import KernelEncoder, Low
    from saeserve.core.gpu import rows

    x_BD = torch.empty(B, d, device="meta")
    W_FD, b_F = torch.empty(m, d, device="meta"), torch.empty(m, device="meta")
    with Counting(B * m) as counting:
        low = Low(rows.shadow_of(W_FD), b_F.half())
        encoder = KernelEncoder(W_FD, b_F, k, b_F, norm, low, 192)
        counting.restart()
        found = encoder.encode(x_BD)
        if k is not None:
            assert encoder.padded(x_BD) is not None
    assert sum(layout.size for layout in found.layouts) == found.buffer.numel()
    return counting.counts


@pytest.mark.parametrize("kind", ["none", "layer_norm"])
@pytest.mark.parametrize("name", SHAPES)
def test_one_product_in_float16_and_nothing_to_wait_for(name: str, kind: str) -> None:
    d, m, k = SHAPES[name]
    counts = counted(d, m, k, RowNorm.model_validate({"kind": kind, "ddof": 1}))
    times = 1 if k is None else 2
    assert not counts.waits
    assert counts.widest == 2
    assert counts.product_flops == {"float16": times * 2 * B * d * m}
    # Rows, bounds, and what counts and lists entries above thresholds, or groups and two lists.
    assert len(counts.launches) == (4 if k is None else 5) * times
