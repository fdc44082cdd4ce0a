"""Kernels of a GPU, run on the CPU by Triton's interpreter: `make test-kernels`.

Triton chooses the interpreter when it is imported, so these tests have a process of their own. In
any other one they are not collected.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import numpy as np
import pytest
from tests.fakes import interpreter

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Not imported by the process that hands the tests out.
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _hastened() -> Generator[None]:
    import triton

    assert triton.knobs.runtime.interpret
    with pytest.MonkeyPatch.context() as patch:
        restore = interpreter.hasten(patch)
        yield
    restore()


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What kernels leave to plain torch is plain torch's, as on a GPU, and not the CPU's loops."""
    from saeserve.core.kernels import compiled

    monkeypatch.setattr(compiled, "available", lambda: False)


@pytest.fixture(autouse=True)
def _no_numpy_warnings() -> Generator[None]:
    """The interpreter computes with numpy, which warns where a GPU gives NaN or Inf."""
    with np.errstate(all="ignore"):
        yield
