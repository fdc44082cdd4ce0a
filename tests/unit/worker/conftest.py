"""A bench or a workshop for each test."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from tests.fakes.worker_bench import Bench, make_bench
from tests.fakes.workshop import Workshop


@pytest.fixture
def bench(tmp_path: Path) -> Generator[Bench]:
    made = make_bench(tmp_path)
    yield made
    made.drain.set()


@pytest.fixture
def shop(bench: Bench) -> Generator[Workshop]:
    """Jobs set torch's threads and determinism for their process; here that is the tests' own."""
    deterministic = torch.get_deterministic_debug_mode()
    yield Workshop(bench)
    torch.set_deterministic_debug_mode(deterministic)
