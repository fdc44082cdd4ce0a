from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.reconciled import World

from saeserve.jobs.ledger import Ledger
from saeserve.platform.store import ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def ledger(store: ArtifactStore) -> Ledger:
    return Ledger(store)


@pytest.fixture
def world(ledger: Ledger) -> World:
    return World(ledger)
