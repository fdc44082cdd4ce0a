"""Every compiled kernel writes the same bits in the process that compiles it and in later ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fakes.kernel_bits import Bits


# The first process compiles everything: a minute, more on a busy machine.
pytestmark = pytest.mark.timeout(600)


def bits(cache: Path) -> Bits:
    """What a fresh process finds, with machine code kept in `cache`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.kernel_bits"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bits, Bits]:
    """By a process that compiles, and by one that loads."""
    cache = tmp_path_factory.mktemp("numba")
    return bits(cache), bits(cache)


def test_all_kernels_and_their_helpers_are_run(found: tuple[Bits, Bits]) -> None:
    compiling, loading = found
    assert len(compiling["kernels"]) > 20
    assert compiling["idle"] == []
    # A kernel that is loaded brings its helpers' code along, without calling them one by one.
    assert not set(loading["idle"]) & set(loading["kernels"])


def test_the_first_process_compiles_and_the_second_loads(found: tuple[Bits, Bits]) -> None:
    compiling, loading = found
    assert compiling["compiled"]
    assert not loading["compiled"]


def test_each_kernel_writes_the_same_bits(found: tuple[Bits, Bits]) -> None:
    compiling, loading = found
    assert loading["kernels"] == compiling["kernels"]


def test_all_architectures_end_with_the_same_weights(found: tuple[Bits, Bits]) -> None:
    compiling, loading = found
    assert loading["weights"] == compiling["weights"]
