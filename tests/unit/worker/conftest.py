"""A bench or a workshop for each test."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.fakes.worker_bench import Bench, make_bench
from tests.fakes.workshop import Workshop

from saeserve.worker import job_process
from saeserve.worker.fence_watch import FenceWatch

HOUR = 3600.0


@pytest.fixture
def bench(tmp_path: Path) -> Generator[Bench]:
    made = make_bench(tmp_path)
    yield made
    made.drain.set()


@pytest.fixture
def shop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Generator[Workshop]:
    """Jobs set torch's threads and determinism for their process; here that is the tests' own.

    Their attempts hear at each commit that they were superseded. The watch, which looks every two
    seconds, would stop those that a busy machine runs longer, and later ones with them.
    """
    monkeypatch.setattr(job_process, "FenceWatch", partial(FenceWatch, look_every_s=HOUR))
    deterministic = torch.get_deterministic_debug_mode()
    yield Workshop(bench)
    torch.set_deterministic_debug_mode(deterministic)
