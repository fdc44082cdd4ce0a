"""Kernels of a GPU, run on the CPU by Triton's interpreter: `make test-kernels`.

Triton chooses the interpreter when it is imported, so these tests have a process of their own. In
any other one they are not collected.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    import triton

    assert triton.knobs.runtime.interpret
else:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _replaced_once() -> Generator[None]:
    """The interpreter replaces the functions of `triton.language` at every launch and again at
    every call of a helper, which is nearly half of what it computes. They stay replaced instead."""
    interpreter: Any = import_module("triton.runtime.interpreter")
    language: Any = import_module("triton.language")
    # Both modules that a kernel's or a helper's globals may hold.
    both = SimpleNamespace(__globals__={"tl": language, "core": language.core})
    scope, nothing = interpreter._patch_lang(both), interpreter._LangPatchScope()

    def replaced(_function: object) -> object:
        return nothing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", replaced)
        yield
    scope.restore()


@pytest.fixture(autouse=True)
def _no_numpy_warnings() -> Generator[None]:
    """The interpreter computes with numpy, which warns where a GPU gives NaN or Inf."""
    with np.errstate(all="ignore"):
        yield
