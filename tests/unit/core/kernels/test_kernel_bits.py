"""Compiled kernels write the same bits in the process that compiles them and in later ones.

A sample: `make test-kernels` compiles all kernels, which takes a minute or more.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.kernel_bits import in_fresh_process

RUN = "graph"
"""Sums and dots of gathered rows, whose order of summation the optimiser could change."""


@pytest.mark.timeout(600)
def test_kernels_write_the_same_bits_compiled_and_loaded(tmp_path: Path) -> None:
    compiling, loading = in_fresh_process(tmp_path, RUN), in_fresh_process(tmp_path, RUN)
    assert compiling["compiled"]
    assert not loading["compiled"]
    assert loading["kernels"] == compiling["kernels"]
    assert loading["weights"] == compiling["weights"]
