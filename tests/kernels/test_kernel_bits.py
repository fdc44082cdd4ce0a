"""Every compiled kernel writes the same bits in the process that compiles it and in later ones."""

from __future__ import annotations

import pytest
from tests.fakes.kernel_bits import Bits, in_fresh_process

# The first process compiles everything: a minute, more on a busy machine.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bits, Bits]:
    """By a process that compiles, and by one that loads."""
    cache = tmp_path_factory.mktemp("numba")
    return in_fresh_process(cache), in_fresh_process(cache)


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
