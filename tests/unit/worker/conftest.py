"""A bench a test."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.fakes.worker_bench import Bench, make_bench


@pytest.fixture
def bench(tmp_path: Path) -> Generator[Bench]:
    made = make_bench(tmp_path)
    yield made
    made.drain.set()
